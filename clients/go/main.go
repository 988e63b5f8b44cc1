// The checks of every client, by go-redis.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

var ctx = context.Background()

type report map[string]any

func say(check string, ok bool, more report) {
	line := report{"check": check, "ok": ok}
	for name, value := range more {
		line[name] = value
	}
	text, _ := json.Marshal(line)
	fmt.Println(string(text))
}

func connect() redis.UniversalClient {
	protocol, _ := strconv.Atoi(os.Getenv("KV_PROTOCOL"))
	options := &redis.UniversalOptions{
		Addrs:         []string{os.Getenv("KV_HOST") + ":" + os.Getenv("KV_PORT")},
		Password:      os.Getenv("KV_PASSWORD"),
		Protocol:      protocol,
		IsClusterMode: os.Getenv("KV_CLUSTER") == "1",
	}
	if path := os.Getenv("KV_CA"); path != "" {
		authority, err := os.ReadFile(path)
		if err != nil {
			panic(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(authority)
		options.TLSConfig = &tls.Config{RootCAs: pool}
	}
	return redis.NewUniversalClient(options)
}

func values(client redis.UniversalClient) (report, error) {
	for _, size := range []int{1, 1000, 2048, 2049, 16384, 70000, 1 << 20, 4 << 20} {
		value := make([]byte, size)
		rand.Read(value)
		key := fmt.Sprintf("v:%d", size)
		if err := client.Set(ctx, key, value, 0).Err(); err != nil {
			return nil, err
		}
		got, err := client.Get(ctx, key).Bytes()
		if err != nil || !bytes.Equal(got, value) {
			return nil, fmt.Errorf("%d bytes are wrong: %w", size, err)
		}
	}
	return nil, nil
}

func many(client redis.UniversalClient) (report, error) {
	var pairs []any
	var keys []string
	for n := range 50 {
		keys = append(keys, fmt.Sprintf("{m}:%d", n))
		pairs = append(pairs, keys[n], n)
	}
	if err := client.MSet(ctx, pairs...).Err(); err != nil {
		return nil, err
	}
	got, err := client.MGet(ctx, append(keys, "{m}:none")...).Result()
	if err != nil {
		return nil, err
	}
	for n := range 50 {
		if got[n] != strconv.Itoa(n) {
			return nil, fmt.Errorf("value %d is %v", n, got[n])
		}
	}
	if got[50] != nil {
		return nil, fmt.Errorf("a missing key is %v", got[50])
	}
	return nil, nil
}

func pipeline(client redis.UniversalClient) (report, error) {
	var got []*redis.StringCmd
	_, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for n := range 200 {
			pipe.Set(ctx, fmt.Sprintf("p:%d", n), n, 0)
			got = append(got, pipe.Get(ctx, fmt.Sprintf("p:%d", n)))
		}
		return nil
	})
	for n, each := range got {
		if each.Val() != strconv.Itoa(n) {
			return nil, fmt.Errorf("value %d is %q: %w", n, each.Val(), err)
		}
	}
	return nil, err
}

func transaction(client redis.UniversalClient) (report, error) {
	client.Del(ctx, "{t}:a", "{t}:b")
	var got *redis.StringCmd
	_, err := client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Set(ctx, "{t}:a", "1", 0)
		pipe.Set(ctx, "{t}:b", "2", 0)
		got = pipe.Get(ctx, "{t}:b")
		return nil
	})
	if err != nil {
		if there := client.Exists(ctx, "{t}:a", "{t}:b").Val(); there != 0 {
			return nil, fmt.Errorf("refused, but something ran: %w", err)
		}
		return report{"refused": err.Error()}, nil
	}
	if got.Val() != "2" {
		return nil, fmt.Errorf("value is %q", got.Val())
	}
	return nil, nil
}

func scan(client redis.UniversalClient) (report, error) {
	for n := range 300 {
		if err := client.Set(ctx, fmt.Sprintf("s:%d", n), "x", 0).Err(); err != nil {
			return nil, err
		}
	}
	var lock sync.Mutex
	found := map[string]bool{}
	iterate := func(node *redis.Client) error {
		keys := node.Scan(ctx, 0, "s:*", 10).Iterator()
		for keys.Next(ctx) {
			lock.Lock()
			found[keys.Val()] = true
			lock.Unlock()
		}
		return keys.Err()
	}
	var err error
	switch each := client.(type) {
	case *redis.ClusterClient:
		err = each.ForEachMaster(ctx, func(_ context.Context, node *redis.Client) error { return iterate(node) })
	case *redis.Client:
		err = iterate(each)
	}
	if err == nil && len(found) != 300 {
		err = fmt.Errorf("SCAN found %d of 300", len(found))
	}
	return nil, err
}

func deletion(client redis.UniversalClient) (report, error) {
	client.Set(ctx, "{d}:a", "x", 0)
	exists, deleted := client.Exists(ctx, "{d}:a", "{d}:b"), client.Del(ctx, "{d}:a", "{d}:b")
	if exists.Val() != 1 || deleted.Val() != 1 || !errors.Is(client.Get(ctx, "{d}:a").Err(), redis.Nil) {
		return nil, fmt.Errorf("EXISTS %v, DEL %v", exists, deleted)
	}
	return nil, nil
}

func largeKeys(client redis.UniversalClient) (report, error) {
	err := client.Set(ctx, "{l}"+strings.Repeat("a", 20000), "x", 0).Err()
	if err != nil {
		return report{"refused": err.Error()}, nil
	}
	if got := client.Get(ctx, "{l}"+strings.Repeat("b", 20000)); got.Val() != "" {
		return nil, errors.New("another key's value")
	}
	return nil, nil
}

func churn(client redis.UniversalClient) report {
	var closed atomic.Bool
	go func() {
		io.Copy(io.Discard, os.Stdin)
		closed.Store(true)
	}()
	reads, missing, wrong, failures := 0, 0, 0, 0
	step := func(n int) bool {
		key := fmt.Sprintf("c:%d", n%200)
		if err := client.Set(ctx, key, n, 0).Err(); err != nil {
			failures++
			time.Sleep(50 * time.Millisecond)
			return false
		}
		got, err := client.Get(ctx, key).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			failures++
			return false
		}
		reads++
		if err != nil {
			missing++
		} else if got != strconv.Itoa(n) {
			wrong++
		}
		return true
	}
	n := 0
	for ; !closed.Load(); n++ {
		step(n)
	}
	recovered := false
	for tries := 0; tries < 200 && !recovered; tries++ {
		recovered = step(n + tries)
	}
	return report{"reads": reads, "missing": missing, "wrong": wrong, "errors": failures, "recovered": recovered}
}

func main() {
	client := connect()
	for _, each := range []struct {
		name string
		run  func(redis.UniversalClient) (report, error)
	}{
		{"values", values}, {"many", many}, {"pipeline", pipeline}, {"transaction", transaction},
		{"scan", scan}, {"deletion", deletion}, {"largeKeys", largeKeys},
	} {
		more, err := each.run(client)
		if err != nil {
			more = report{"error": err.Error()}
		}
		say(each.name, err == nil, more)
	}
	say("ready", true, nil)
	say("churn", true, churn(client))
}
