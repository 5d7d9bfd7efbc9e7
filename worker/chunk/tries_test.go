package chunk

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestTries: an image is tried MaxAttempts times if its error is transient, twice if a registry
// refuses it, and once if the error is final.
func TestTries(t *testing.T) {
	const (
		always = 0
		// stuck is the timeout of copies that hang: long after their first request.
		stuck = 3 * time.Second
	)
	for name, test := range map[string]struct {
		fault    registrytest.Fault
		attempts int // of the failure; 0: mirrored
		requests int // that met the fault, if the number is exact
	}{
		"500 for a while": {fault: registrytest.Fault{Match: gets, Status: 500, Times: attempts - 1}},
		"500":             {fault: registrytest.Fault{Match: gets, Status: 500, Times: always}, attempts: attempts, requests: attempts},
		"502 to the HEAD": {fault: registrytest.Fault{Match: heads, Status: 502, Times: always}, attempts: attempts, requests: attempts},
		"500 to the HEAD": {fault: registrytest.Fault{Match: heads, Status: 500, Times: always}},
		"reset":           {fault: registrytest.Fault{Match: gets, Reset: true, Times: always}, attempts: attempts},
		"reset once":      {fault: registrytest.Fault{Match: blobs, Reset: true, Times: 1}},
		"cut once":        {fault: registrytest.Fault{Match: gets, TruncateBody: true, Times: 1}},
		"hanging HEAD":    {fault: registrytest.Fault{Match: heads, Hang: true, Times: always}, attempts: attempts, requests: attempts},
		"hanging copy":    {fault: registrytest.Fault{Match: gets, Hang: true, Times: always}, attempts: attempts, requests: attempts},
		"hangs once":      {fault: registrytest.Fault{Match: gets, Hang: true, Times: 1}},
		"404":             {fault: registrytest.Fault{Match: manifests, Status: 404, Times: always}, attempts: 1, requests: 2},
		"404 to the HEAD": {fault: registrytest.Fault{Match: heads, Status: 404, Times: always}},
		"401":             {fault: registrytest.Fault{Match: gets, Status: 401, Times: always}, attempts: 2},
		"403":             {fault: registrytest.Fault{Match: gets, Status: 403, Times: always}, attempts: 2, requests: 4},
		"bad manifest": {fault: registrytest.Fault{Match: gets, Status: 200, Body: "{}", Times: always,
			Header: http.Header{"Docker-Content-Digest": {"sha256:" + strings.Repeat("1", 64)}}}, attempts: 1, requests: 1},
		"a page":       {fault: registrytest.Fault{Match: gets, Status: 200, Body: "<html>", Times: always}, attempts: attempts},
		"a page once":  {fault: registrytest.Fault{Match: gets, Status: 200, Body: "<html>", Times: 1}},
		"nothing once": {fault: registrytest.Fault{Match: gets, Status: 200, Times: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newHarness(t)
			if test.fault.Hang {
				b.Mirror.Engine = engine(t, []string{b.from.Host(), b.to.Host()}, stuck)
			}
			b.push(t, "1")
			defer b.from.Inject(test.fault)()
			require.Empty(t, b.doAgain(t, b.entry("1")).Left)
			if test.attempts == 0 {
				require.Equal(t, run.Tally{Total: 1, Copied: 1}, b.images)
				require.Empty(t, b.kept.records)
				b.mirrored(t, "1")
				return
			}
			require.Equal(t, run.Tally{Total: 1, Failed: 1}, b.images)
			failed := b.kept.only(t)
			require.Equal(t, test.attempts, failed.Attempts)
			require.Equal(t, b.from.Host()+"/"+repository+":1", failed.Source)
			require.NotContains(t, failed.Reason, "\n")
			if test.requests > 0 {
				require.Equal(t, test.requests, b.from.Count(test.fault.Match))
			}
		})
	}
}

// TestAttemptsCountAcrossSnoozes: attempts at images and at listings are counted across deliveries,
// and old digests are not used.
func TestAttemptsCountAcrossSnoozes(t *testing.T) {
	for name, broken := range map[string]registrytest.Match{"image": gets, "listing": lists} {
		t.Run(name, func(t *testing.T) {
			b := newHarness(t)
			b.Backoff = func(attempt int) time.Duration { return time.Duration(attempt) * time.Hour }
			b.push(t, "1")
			defer b.from.Inject(registrytest.Fault{Match: broken, Status: 500})()
			result := b.do(t, b.entry(""))
			for n := 1; n < attempts; n++ {
				require.Equal(t, time.Duration(n)*time.Hour, result.After)
				require.Len(t, result.Left, 1)
				if name == "image" {
					require.Equal(t, []message.Image{{Tag: reference.MustTag("1"), Attempts: n}}, result.Left[0].Images)
				} else {
					require.Equal(t, n, result.Left[0].Attempts)
				}
				require.Empty(t, b.kept.records)
				result = b.deliver(t, Delivery{Chunk: b.chunk(result.Left...), Fresh: true, Remainder: true})
			}
			require.Empty(t, result.Left)
			require.Equal(t, attempts, b.kept.only(t).Attempts)
		})
	}
}

// TestBeingLimitedIsNoFailure: a 429 fails no image, at any request and any number of times. The
// chunk is delivered again at the time that the registry has stated, and the registry gets no
// requests until then.
func TestBeingLimitedIsNoFailure(t *testing.T) {
	const asked, images = 3 * time.Second, 8
	for name, test := range map[string]struct {
		match registrytest.Match
		at    func(*harness) *registrytest.Registry
		most  int // requests that get a 429 in one delivery, if they come one by one
	}{
		"listing":     {lists, func(b *harness) *registrytest.Registry { return b.from }, 1},
		"HEAD":        {heads, func(b *harness) *registrytest.Registry { return b.from }, 0},
		"copy":        {gets, func(b *harness) *registrytest.Registry { return b.from }, 1},
		"comparison":  {heads, func(b *harness) *registrytest.Registry { return b.to }, 0},
		"destination": {puts, func(b *harness) *registrytest.Registry { return b.to }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newHarness(t)
			b.Concurrency = 1
			b.push(t, registrytest.Numbered("%d", images)...)
			r := test.at(b)
			remove := r.Inject(registrytest.Fault{Match: test.match, Status: 429,
				Header: http.Header{"Retry-After": {strconv.Itoa(int(asked.Seconds()))}}})
			left := []message.Repository{b.entry("")}
			for range attempts + 2 {
				r.ResetRequests()
				result := b.do(t, left...)
				require.NotEmpty(t, result.Left)
				require.Zero(t, result.Left[0].Attempts)
				for _, i := range result.Left[0].Images {
					require.Zero(t, i.Attempts)
				}
				require.GreaterOrEqual(t, result.After, asked)
				require.Less(t, result.After, limitedPause/2)
				if most := test.most; most > 0 {
					require.LessOrEqual(t, r.Count(registrytest.All(test.match, registrytest.Answered(429))), most)
				}
				left = result.Left
			}
			require.Empty(t, b.kept.records)
			remove()
			require.Empty(t, b.do(t, left...).Left)
			b.mirrored(t, registrytest.Numbered("%d", images)...)
		})
	}
}

// TestForgottenUploads: if the destination does not find an upload that it has begun, the image is tried
// again.
func TestForgottenUploads(t *testing.T) {
	for _, times := range []int{2, 0} {
		b := newHarness(t)
		b.push(t, "1")
		b.to.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindBlobUpload), Status: 404, Times: times,
			Body: `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"blob upload unknown to registry"}]}`})
		require.Empty(t, b.do(t, b.entry("1")).Left)
		if times > 0 {
			require.Equal(t, run.Tally{Total: 1, Copied: 1}, b.images)
			b.mirrored(t, "1")
			continue
		}
		failed := b.kept.only(t)
		require.Equal(t, attempts, failed.Attempts)
		require.Contains(t, failed.Reason, "the registry does not find the upload that it has begun: not found: blob upload unknown to registry (404)")
	}
}
