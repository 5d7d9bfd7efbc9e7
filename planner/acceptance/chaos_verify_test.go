package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/subject"
)

// verify requires that nothing was lost and that nothing is left behind. It returns a report.
func (c *chaos) verify(id string, faults time.Duration, seed uint64) string {
	c.t.Helper()
	failed, givenUp := map[string]string{}, 0
	for _, record := range c.failed() {
		for _, image := range record.Images {
			failed[strings.TrimPrefix(image.Source, c.toSource.Host()+"/")] = image.Reason
		}
	}
	for image := range c.broken {
		require.Contains(c.t, failed, image, "an image that lacks a layer")
	}
	var lost []string
	for _, repository := range c.entries {
		tags, err := c.source.Tags(repository)
		require.NoError(c.t, err)
		for _, tag := range tags {
			image := repository + ":" + tag
			reason, isFailed := failed[image]
			if !isFailed {
				reason, isFailed = failed[repository]
			}
			switch {
			case !isFailed:
				if err := c.same(repository, tag); err != nil {
					lost = append(lost, err.Error())
				}
			case !c.broken[image]:
				givenUp++
				require.True(c.t, c.explains(repository, reason), "no fault that struck %s explains: %s", image, reason)
			}
		}
	}
	require.Empty(c.t, lost)
	c.requireNothingLeft(id)
	require.Eventually(c.t, func() bool { return len(c.leftovers()) == 0 }, patience, tick, "left: %v", c.leftovers())
	return c.report(faults, seed, givenUp)
}

// same compares a tag at the destination with the tag at the source.
func (c *chaos) same(repository, tag string) error {
	want, err := c.source.Digest(repository, tag)
	if err != nil {
		return err
	}
	got, err := c.destination.Digest(prefix+"/"+repository, tag)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%s:%s is %s and should be %s", repository, tag, got, want)
	}
	return c.destination.Check(prefix+"/"+repository, tag)
}

// requireNothingLeft checks that the broker has no chunks.
func (c *chaos) requireNothingLeft(id string) {
	c.t.Helper()
	b := brokertest.Open(c.t, c.broker.config())
	info, err := b.Stream.Info(c.t.Context(), jetstream.WithSubjectFilter(">"))
	require.NoError(c.t, err)
	for subj := range info.State.Subjects {
		require.True(c.t, strings.HasPrefix(subj, subject.Failed+"."), "%s is left of run %s", subj, id)
	}
	consumer, err := b.Consumer.Info(c.t.Context())
	require.NoError(c.t, err)
	require.Zero(c.t, consumer.NumAckPending)
	require.Zero(c.t, consumer.NumPending)
}

func (c *chaos) report(faults time.Duration, seed uint64, givenUp int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "chaos: SEED=%d, %.1f minutes of faults\n", seed, faults.Minutes())
	for _, name := range slices.Sorted(maps.Keys(c.strikes)) {
		fmt.Fprintf(&b, "  %-28s %d\n", name, c.strikes[name].times)
	}
	needed := c.content()
	c.acks.mu.Lock()
	defer c.acks.mu.Unlock()
	fmt.Fprintf(&b, "images %d, deliveries %d, redeliveries %d, given up %d, lost 0, bytes wasted %d of %d, leaked 0",
		c.images, len(c.acks.messages)+c.acks.again, c.acks.again, givenUp,
		c.toSource.Received()-needed, c.toSource.Received())
	return b.String()
}

// content returns the size of all manifests and blobs at the source. A fleet downloads at least
// that.
func (c *chaos) content() (sum int64) {
	c.t.Helper()
	sizes := map[string]int64{}
	var add func(repository, name string)
	add = func(repository, name string) {
		raw, err := c.source.Manifest(repository, name)
		require.NoError(c.t, err)
		sizes[digest.FromBytes(raw).String()] = int64(len(raw))
		var manifest struct {
			Config    v1.Descriptor
			Layers    []v1.Descriptor
			Manifests []v1.Descriptor
		}
		require.NoError(c.t, json.Unmarshal(raw, &manifest))
		for _, blob := range append(manifest.Layers, manifest.Config) {
			sizes[blob.Digest.String()] = blob.Size
		}
		for _, child := range manifest.Manifests {
			add(repository, child.Digest.String())
		}
	}
	for _, repository := range c.entries {
		tags, err := c.source.Tags(repository)
		require.NoError(c.t, err)
		for _, tag := range tags {
			add(repository, tag)
		}
	}
	for _, size := range sizes {
		sum += size
	}
	return sum
}

// processesWith returns the running processes whose environment contains the text.
func processesWith(t *testing.T, variable string) (found []string) {
	t.Helper()
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(t, err)
	for _, path := range environments {
		environment, err := os.ReadFile(path)
		if err != nil || !slices.ContainsFunc(bytes.Split(environment, []byte{0}), func(v []byte) bool { return string(v) == variable }) {
			continue
		}
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		found = append(found, strings.ReplaceAll(string(command), "\x00", " "))
	}
	return found
}

// sorted sorts the faults, so that a seed repeats them.
func sorted(faults []fault) []fault {
	slices.SortFunc(faults, func(a, b fault) int { return strings.Compare(a.name, b.name) })
	return faults
}
