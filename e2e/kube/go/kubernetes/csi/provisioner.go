package main

import (
	"context"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// provisioner does the work of external-provisioner, which does not build from the module proxy.
type provisioner struct {
	api     kubernetes.Interface
	volumes volumeFolder
	node    string
}

// once makes a volume for every claim that waits for one of ours, and removes volumes whose claims are gone.
func (p provisioner) once(ctx context.Context) error {
	classes, err := p.api.StorageV1().StorageClasses().List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	claims, err := p.api.CoreV1().PersistentVolumeClaims("").List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	for _, claim := range claims.Items {
		for _, class := range classes.Items {
			if p.waits(claim, class) {
				if err := p.provide(ctx, claim, class); err != nil {
					return err
				}
			}
		}
	}
	volumes, err := p.api.CoreV1().PersistentVolumes().List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	for _, volume := range volumes.Items {
		if err := p.reclaim(ctx, volume); err != nil {
			return err
		}
	}
	return nil
}

func (p provisioner) waits(claim core.PersistentVolumeClaim, class storage.StorageClass) bool {
	late := class.VolumeBindingMode != nil && *class.VolumeBindingMode == storage.VolumeBindingWaitForFirstConsumer
	return class.Provisioner == driverName &&
		claim.Spec.StorageClassName != nil && *claim.Spec.StorageClassName == class.Name &&
		claim.Spec.VolumeName == "" && claim.DeletionTimestamp == nil &&
		(!late || claim.Annotations["volume.kubernetes.io/selected-node"] == p.node)
}

func (p provisioner) provide(ctx context.Context, claim core.PersistentVolumeClaim, class storage.StorageClass) error {
	id := "pvc-" + string(claim.UID)
	bytes, err := p.volumes.resize(id, claim.Spec.Resources.Requests.Storage().Value())
	if err != nil {
		return err
	}
	_, err = p.api.CoreV1().PersistentVolumes().Create(ctx, &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{
			Name: id, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": driverName},
		},
		Spec: core.PersistentVolumeSpec{
			Capacity:                      core.ResourceList{core.ResourceStorage: *resource.NewQuantity(bytes, resource.BinarySI)},
			AccessModes:                   claim.Spec.AccessModes,
			StorageClassName:              class.Name,
			PersistentVolumeReclaimPolicy: *class.ReclaimPolicy,
			ClaimRef: &core.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: core.PersistentVolumeSource{
				CSI: &core.CSIPersistentVolumeSource{Driver: driverName, VolumeHandle: id, FSType: "xfs"},
			},
		},
	}, meta.CreateOptions{})
	if errors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (p provisioner) reclaim(ctx context.Context, volume core.PersistentVolume) error {
	source := volume.Spec.CSI
	if source == nil || source.Driver != driverName || volume.Status.Phase != core.VolumeReleased ||
		volume.Spec.PersistentVolumeReclaimPolicy != core.PersistentVolumeReclaimDelete {
		return nil
	}
	if device, err := p.volumes.device(source.VolumeHandle); err != nil || device != "" {
		return err // the kubelet has not let go of it yet
	}
	if err := p.volumes.remove(source.VolumeHandle); err != nil {
		return err
	}
	err := p.api.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, meta.DeleteOptions{})
	if errors.IsNotFound(err) {
		return nil
	}
	return err
}
