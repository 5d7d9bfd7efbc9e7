package chunk

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestUnchangedCostsNothing: the first run copies everything, and only tags an alias. The second
// run pulls and puts nothing. The third run copies only images that have moved.
func TestUnchangedCostsNothing(t *testing.T) {
	b := newHarness(t)
	b.push(t, "1", "2")
	_, err := b.from.PushIndex(repository, "3", registrytest.MultiPlatform("3", "linux/amd64", "linux/arm64"))
	require.NoError(t, err)
	b.move(t, "latest", "2")

	require.Empty(t, b.do(t, b.entry("")).Left)
	b.mirrored(t, "1", "2", "3", "latest")
	require.Equal(t, run.Tally{Total: 4, Copied: 3, Tagged: 1}, b.images)
	require.Equal(t, 7, b.pulls)
	require.Equal(t, 7, b.from.Pulls())
	require.NotZero(t, b.bytes)

	b.from.ResetRequests()
	b.to.ResetRequests()
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Equal(t, run.Tally{Total: 4, Unchanged: 4}, b.images)
	require.Zero(t, b.pulls)
	require.Zero(t, b.from.Pulls())
	require.Zero(t, b.to.Count(puts))

	b.move(t, "latest", "1") // a rollback: the destination has it
	b.move(t, "2", "2.1")
	require.Empty(t, b.do(t, b.entry("")).Left)
	b.mirrored(t, "1", "2", "3", "latest")
	require.Equal(t, run.Tally{Total: 4, Copied: 1, Tagged: 1, Unchanged: 2}, b.images)
	require.Equal(t, 1, b.from.Pulls())
}

// TestOneFailureHidesNothing: a broken image, a tag that cannot be looked up, and a missing repository do not
// affect other images.
func TestOneFailureHidesNothing(t *testing.T) {
	b := newHarness(t)
	b.push(t, "1", "2", "3", "4")
	_, _, err := b.from.BreakImage(repository, "2")
	require.NoError(t, err)
	defer b.from.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref("3")), Status: 502})()
	missing := b.entry("")
	missing.Source, missing.Destination = reference.MustRepository(b.from.Host()+"/no/such"), reference.MustRepository(b.to.Host()+"/mirror/no/such")

	require.Empty(t, b.do(t, missing, b.entry("")).Left)
	b.mirrored(t, "1", "4")
	require.Equal(t, run.Tally{Total: 5, Copied: 2, Failed: 3}, b.images)
	source := b.from.Host() + "/" + repository
	require.Len(t, b.kept.records, 3)
	require.Equal(t, failure.Image{Source: missing.Source.String(), Destination: missing.Destination.String(), Attempts: 1,
		Reason: b.kept.records[missing.Source.String()].Reason}, b.kept.records[missing.Source.String()])
	require.Contains(t, b.kept.records[missing.Source.String()].Reason, "not found")
	require.Equal(t, 1, b.kept.records[source+":2"].Attempts)
	require.Contains(t, b.kept.records[source+":2"].Reason, "blob")
	require.Equal(t, attempts, b.kept.records[source+":3"].Attempts)
	require.Equal(t, b.to.Host()+"/"+destination+":3", b.kept.records[source+":3"].Destination)
}

// TestOneUnreadableManifest: only this image fails, with the reason.
func TestOneUnreadableManifest(t *testing.T) {
	seven := registrytest.All(manifests, registrytest.Ref("7"))
	for name, fault := range map[string]registrytest.Fault{
		"nothing": {Match: seven, Status: 200},
		"a page":  {Match: seven, Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<html><title>Welcome</title></html>"},
		"broken":  {Match: seven, Status: 200, Body: `{"schemaVersion":2,"manifests":7}`},
		"reset":   {Match: seven, Reset: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newHarness(t)
			b.push(t, registrytest.Numbered("%d", 12)...)
			defer b.from.Inject(fault)()
			require.Empty(t, b.do(t, b.entry("")).Left)
			require.Equal(t, run.Tally{Total: 12, Copied: 11, Failed: 1}, b.images)
			failed := b.kept.only(t)
			require.Equal(t, b.from.Host()+"/"+repository+":7", failed.Source)
			require.Contains(t, failed.Reason, "look up "+failed.Source+": ")
		})
	}
}

// TestFailuresOfARepositoryAreOneWrite: many failures of a repository are recorded with one write.
func TestFailuresOfARepositoryAreOneWrite(t *testing.T) {
	b := newHarness(t)
	b.push(t, "1", "2", "3", "4")
	defer b.to.Inject(registrytest.Fault{Match: heads, Status: 409})()
	b.do(t, b.entry(""))
	require.Equal(t, run.Tally{Total: 4, Failed: 4}, b.images)
	require.Len(t, b.kept.records, 4)
	require.Equal(t, 1, b.kept.writes)
}

// TestNew: a worker that lacks a part is not made.
func TestNew(t *testing.T) {
	parts := reflect.ValueOf(newHarness(t).Parts)
	for i := range parts.NumField() {
		field := parts.Type().Field(i)
		if field.Type.Kind() == reflect.Bool {
			continue
		}
		lacking := parts.Interface().(Parts)
		reflect.ValueOf(&lacking).Elem().Field(i).SetZero()
		_, err := New(lacking)
		require.ErrorIs(t, err, errIncomplete)
		require.ErrorContains(t, err, field.Name)
	}
}

// TestFailuresComeFirst: if a failure cannot be recorded, the delivery fails, and the chunk has no
// outcome.
func TestFailuresComeFirst(t *testing.T) {
	b := newHarness(t)
	b.outcomes = map[string]int{}
	b.kept.broken = errors.New("no broker")
	_, err := b.Do(t.Context(), t.Context(), Delivery{Chunk: b.chunk(b.entry("none")), Observer: b})
	require.ErrorIs(t, err, b.kept.broken)
	require.Zero(t, b.outcomes["failed"])
}

// TestSuccessSubtractsWhatItHasSeen: mirrored images are no longer failures, and neither are repositories that
// were listed.
func TestSuccessSubtractsWhatItHasSeen(t *testing.T) {
	b := newHarness(t)
	b.push(t, "1", "2")
	source := b.from.Host() + "/" + repository
	failed := func() {
		for _, s := range []string{source, source + ":1", source + ":2", source + ":0", source + ":1@sha256:x", "quay.io/other:1"} {
			b.kept.records[s] = failure.Image{Source: s}
		}
	}
	remain := func() (left []string) {
		for _, s := range []string{source, source + ":1", source + ":2", source + ":0", source + ":1@sha256:x", "quay.io/other:1"} {
			if _, ok := b.kept.records[s]; ok {
				left = append(left, s)
			}
		}
		return left
	}
	failed()
	b.do(t, b.entry("1"))
	require.Equal(t, []string{source, source + ":2", source + ":0", source + ":1@sha256:x", "quay.io/other:1"}, remain())
	failed()
	b.do(t, b.entry(""))
	require.Equal(t, []string{source + ":0", source + ":1@sha256:x", "quay.io/other:1"}, remain())
}

// TestPinned: an image that the list pins by digest is not looked up, and gets a tag at the destination, so
// that it is not collected there.
func TestPinned(t *testing.T) {
	b := newHarness(t)
	digest := b.move(t, "1", "old")
	b.move(t, "1", "new")
	bare, tagged, missing := b.entry(""), b.entry("1"), b.entry("2")
	bare.Digest, tagged.Digest = reference.MustDigest(digest), reference.MustDigest(digest)
	missing.Digest = reference.MustDigest("sha256:1111111111111111111111111111111111111111111111111111111111111111")
	require.Empty(t, b.do(t, bare, tagged, missing).Left)
	require.Equal(t, 2, b.images.Copied+b.images.Tagged)
	for _, tag := range []string{"1", "sha256-" + digest[len("sha256:"):][:12]} {
		got, err := b.to.Digest(destination, tag)
		require.NoError(t, err)
		require.Equal(t, digest, got)
	}
	failed := b.kept.only(t)
	require.Equal(t, failure.Image{Source: missing.Source.String() + ":2@" + missing.Digest.String(), Destination: missing.Destination.String() + ":2",
		Attempts: 1, Reason: failed.Reason}, failed)
	require.Empty(t, b.do(t, bare, tagged).Left)
	require.Equal(t, run.Tally{Total: 2, Unchanged: 2}, b.images)
}

// TestNewerRuns: a newer run takes over remainders, but no republished images.
func TestNewerRuns(t *testing.T) {
	b := newHarness(t)
	b.push(t, "1", "2")
	resolved, unresolved := b.entry(""), b.entry("")
	resolved.Images = []message.Image{{Tag: reference.MustTag("1")}, {Tag: reference.MustTag("2")}}
	b.newest = "3"
	d := Delivery{Chunk: b.chunk(resolved, unresolved), Remainder: true}
	require.Empty(t, b.deliver(t, d).Left)
	require.Equal(t, run.Tally{Total: 3, Skipped: 3}, b.images)
	require.Empty(t, b.from.Requests())

	d.Chunk.Republished = true
	d.Chunk.Repositories = d.Chunk.Repositories[:1]
	require.Empty(t, b.deliver(t, d).Left)
	require.Equal(t, run.Tally{Total: 2, Copied: 2}, b.images)
	require.Equal(t, "3", b.newest)

	b.newest = "2" // its own run
	d.Chunk.Republished = false
	b.deliver(t, d)
	require.Equal(t, run.Tally{Total: 2, Unchanged: 2}, b.images)
}

// TestDestinationsThatRefuse: the error names the destination.
func TestDestinationsThatRefuse(t *testing.T) {
	uploads := func(r registrytest.Request) bool { return r.Method == http.MethodPost || r.Method == http.MethodPatch }
	for name, test := range map[string]struct {
		fault    registrytest.Fault
		stop     bool
		attempts int
		reason   string
	}{
		"unreachable":      {stop: true, attempts: attempts, reason: "connection refused"},
		"401":              {fault: registrytest.Fault{Status: 401}, attempts: 2, reason: "unauthorized"},
		"500":              {fault: registrytest.Fault{Match: uploads, Status: 500}, attempts: attempts, reason: "500"},
		"500 to a tag":     {fault: registrytest.Fault{Match: registrytest.All(puts, registrytest.Ref("1")), Status: 500}, attempts: attempts, reason: "500"},
		"read-only":        {fault: registrytest.Fault{Match: uploads, Status: 405, Body: `{"errors":[{"code":"UNSUPPORTED","message":"read only"}]}`}, attempts: 2, reason: "read only"},
		"quota":            {fault: registrytest.Fault{Match: uploads, Status: 403, Body: `{"errors":[{"code":"DENIED","message":"quota exceeded"}]}`}, attempts: 2, reason: "quota exceeded"},
		"quota for layers": {fault: registrytest.Fault{Match: registrytest.Kinds(registrytest.KindBlobUpload), Status: 507}, attempts: attempts, reason: "507"},
		"no space":         {fault: registrytest.Fault{Match: puts, Status: 507}, attempts: attempts, reason: "507"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newHarness(t)
			b.push(t, "1")
			if test.stop {
				b.to.Stop()
			} else {
				b.to.Inject(test.fault)
			}
			require.Empty(t, b.doAgain(t, b.entry("")).Left)
			failed := b.kept.only(t)
			require.Equal(t, test.attempts, failed.Attempts)
			require.Contains(t, failed.Reason, test.reason)
			require.Contains(t, failed.Reason, b.to.Host())
		})
	}
}

// TestStopping: a worker that stops leaves images that have not begun, and counts no attempts.
func TestStopping(t *testing.T) {
	b := newHarness(t)
	b.Concurrency = 1
	b.push(t, "1", "2", "3")
	gate, stopping := make(chan struct{}), make(chan struct{})
	defer b.from.Inject(registrytest.Fault{Match: blobs, Gate: gate, Times: 1})()
	started := b.from.Notify(blobs)
	go func() {
		<-started
		close(stopping)
		close(gate)
	}()
	result := b.deliver(t, Delivery{Chunk: b.chunk(b.entry("")), Fresh: true, Stopping: stopping})
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, b.images)
	require.Zero(t, result.After)
	require.Len(t, result.Left, 1)
	require.Equal(t, []message.Image{{Tag: reference.MustTag("2")}, {Tag: reference.MustTag("3")}}, result.Left[0].Images)

	result = b.deliver(t, Delivery{Chunk: b.chunk(result.Left[0], b.entry("")), Stopping: stopping})
	require.Zero(t, b.images)
	require.Len(t, result.Left, 2)
	require.Len(t, append(result.Left[0].Images, result.Left[1].Images...), 2)
}

// TestInterrupted: the grace period ends during a copy.
func TestInterrupted(t *testing.T) {
	b := newHarness(t)
	b.push(t, "1", "2")
	defer b.from.Inject(registrytest.Fault{Match: blobs, Hang: true})()
	work, cancel := context.WithCancel(t.Context())
	started := b.from.Notify(blobs)
	go func() {
		<-started
		cancel()
	}()
	result := b.deliverWithin(t, work, Delivery{Chunk: b.chunk(b.entry("")), Fresh: true})
	require.Zero(t, b.images)
	require.Len(t, result.Left, 1)
	require.ElementsMatch(t, []message.Image{{Tag: reference.MustTag("1")}, {Tag: reference.MustTag("2")}}, result.Left[0].Images)
	require.Empty(t, b.kept.records)
}
