package metrics

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// TestLastSuccess: the last success of a name is exported as long as the name has runs, even
// if the run itself is gone. An unfinished run is no success.
func TestLastSuccess(t *testing.T) {
	s := newStand(t, brokertest.Embedded(t))
	f, m := s.fleet(t)
	says(t, m, "last_success_timestamp_seconds")
	const name = "nightly"
	look := func(want string) {
		t.Helper()
		later(f, renewAfter)
		says(t, m, "last_success_timestamp_seconds", name+" "+want)
	}
	good := s.ran(t, name, run.KindPlan, ended, run.Tally{Total: 1, Copied: 1})
	look(unix(ended))
	newest := s.ran(t, name, run.KindPlan, ended.Add(time.Hour), run.Tally{Total: 1, Copied: 1})
	newest.Ended = run.StateSuperseded
	require.NoError(t, s.runs.Put(t.Context(), newest))
	look(unix(ended))
	newest = s.ran(t, name, run.KindPlan, ended.Add(time.Hour), run.Tally{Total: 1, Copied: 1})
	newest.Partial = true
	require.NoError(t, s.runs.Put(t.Context(), newest))
	look(unix(ended))
	newest = s.ran(t, name, run.KindPlan, ended.Add(2*time.Hour), run.Tally{Total: 2, Copied: 1})
	a := subject.NewAddress(name, newest.ID, registry, "000001-7")
	_, err := s.Publish(t.Context(), broker.Scheduled(subject.Later, a, time.Now().Add(time.Hour), nil))
	require.NoError(t, err)
	look(unix(ended))
	says(t, m, "run_state", "nightly cancelled 0", "nightly done 0", "nightly failed 0", "nightly lost 0", "nightly running 0", "nightly snoozed 1",
		"nightly superseded 0", "nightly waiting 0")

	// Another worker reads it from the broker, which has the run no more.
	bucket, err := s.JS.KeyValue(t.Context(), run.Bucket)
	require.NoError(t, err)
	require.NoError(t, bucket.Purge(t.Context(), name+"."+good.ID))
	f, m = s.fleet(t)
	later(f, takeOver)
	look(unix(ended))
	require.NoError(t, s.Stream.Purge(t.Context(), jetstream.WithPurgeSubject(a.Under(subject.Later))))
	look(unix(ended.Add(2 * time.Hour)))
	s.ran(t, name, run.KindPlan, ended.Add(3*time.Hour), run.Tally{Total: 2, Failed: 1})
	look(unix(ended.Add(2 * time.Hour)))
}
