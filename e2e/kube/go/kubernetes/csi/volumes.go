package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	mebibyte = 1 << 20
	// mkfs.xfs makes none that is smaller.
	smallestVolume = 300 * mebibyte
)

// volumeFolder holds one sparse file a volume.
type volumeFolder string

func (v volumeFolder) file(id string) string {
	return filepath.Join(string(v), filepath.Base(id)+".img")
}

// resize makes the file of a volume, or makes it larger; it returns the size it has then.
func (v volumeFolder) resize(id string, wanted int64) (int64, error) {
	bytes := (max(wanted, smallestVolume) + mebibyte - 1) / mebibyte * mebibyte
	file, err := os.OpenFile(v.file(id), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	status, err := file.Stat()
	if err != nil || status.Size() >= bytes {
		return bytes, err
	}
	return bytes, file.Truncate(bytes)
}

func (v volumeFolder) remove(id string) error {
	if err := os.Remove(v.file(id)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// device is the loop device of a volume, empty when it has none.
func (v volumeFolder) device(id string) (string, error) {
	out, err := run("losetup", "--noheadings", "--output", "NAME", "--associated", v.file(id))
	return strings.TrimSpace(strings.SplitN(out, "\n", 2)[0]), err
}

// attach gives a volume a loop device, and a new one a file system.
func (v volumeFolder) attach(id string) (string, error) {
	device, err := v.device(id)
	if err != nil || device != "" {
		return device, err
	}
	if device, err = run("losetup", "--find", "--show", v.file(id)); err != nil {
		return "", err
	}
	if exec.Command("blkid", "--probe", device).Run() != nil {
		_, err = run("mkfs.xfs", "-q", device)
	}
	return device, err
}

func isMounted(path string) bool { return exec.Command("mountpoint", "--quiet", path).Run() == nil }

func unmount(path string) error {
	if !isMounted(path) {
		return nil
	}
	_, err := run("umount", path)
	return err
}

func run(name string, arguments ...string) (string, error) {
	out, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}
