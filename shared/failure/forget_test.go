package failure

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

func TestForget(t *testing.T) {
	s, log := logged(t)
	s.limit = 900 // several pages
	require.NoError(t, s.Add(t.Context(), name, record("r1", tags(10)...)))
	other := record("r1", "1")
	other.Repository = "quay.io/osism/other"
	require.NoError(t, s.Add(t.Context(), name, other))
	require.NoError(t, s.Add(t.Context(), "other", record("r1", "0001")))

	one := func(_ Record, i Image) bool { return i.Source == source("0003") || i.Source == source("0009") }
	done, err := s.Forget(t.Context(), name, one)
	require.NoError(t, err)
	require.Equal(t, Forgotten{Images: 2}, done)
	require.Len(t, sources(t, s), 9)
	require.Equal(t, 2, strings.Count(log.String(), `msg="deleted a failure" mirror=default`))
	for _, text := range []string{"image=" + source("0003"), "image=" + source("0009"), `reason="manifest unknown"`, "run=r1"} {
		require.Contains(t, log.String(), text)
	}
	done, err = s.Forget(t.Context(), name, one)
	require.NoError(t, err)
	require.Equal(t, Forgotten{}, done)
	done, err = s.Forget(t.Context(), name, func(r Record, _ Image) bool { return r.Repository == repository })
	require.NoError(t, err)
	require.Equal(t, Forgotten{Images: 8}, done)
	counts, err := s.Counter().Count(t.Context())
	require.NoError(t, err)
	require.Equal(t, Count{Listed: 1}, counts.Images[name])
	require.Equal(t, Count{Listed: 1}, counts.Images["other"])
	require.NoError(t, s.Add(t.Context(), name, record("r2", "0003")), "and it can fail again")
	require.Len(t, sources(t, s), 2)
}

// TestForgetAndAWorker: if a worker has recorded a failure of a repository in the meantime, no
// failure of this repository is deleted. Those of other repositories are.
func TestForgetAndAWorker(t *testing.T) {
	s, log := logged(t)
	require.NoError(t, s.Add(t.Context(), name, record("r1", "1", "2")))
	other := record("r1", "1")
	other.Repository = "quay.io/osism/other"
	require.NoError(t, s.Add(t.Context(), name, other))
	again := true
	all := func(r Record, i Image) bool {
		if again && r.Repository == repository {
			again = false
			require.NoError(t, s.Add(t.Context(), name, record("r2", "1")))
		}
		return true
	}
	done, err := s.Forget(t.Context(), name, all)
	require.NoError(t, err)
	require.Equal(t, Forgotten{Images: 1, Changed: []string{repository}}, done)
	require.Equal(t, []string{source("1"), source("2")}, sources(t, s))
	require.Equal(t, 1, strings.Count(log.String(), "deleted a failure"))
	done, err = s.Forget(t.Context(), name, all)
	require.NoError(t, err)
	require.Equal(t, Forgotten{Images: 2}, done)
}

// TestForgetWhatCannotBeRead: only the unreadable message is deleted, even if a record has its
// subject.
func TestForgetWhatCannotBeRead(t *testing.T) {
	s, server, log := reached(t)
	require.NoError(t, s.Add(t.Context(), name, record("r1", "1")))
	for _, place := range []string{"mirror.failed.x", "mirror.failed.\xff.x", "mirror.failed.*", subject.Failure(name, registry, repository, 1)} {
		server.Alien(t, place, "NATS/1.0\r\nnone\r\n\r\n", []byte("\x1b[2J"))
	}
	records, err := s.List(t.Context(), name)
	require.NoError(t, err)
	require.Len(t, records, 5)
	for n, r := range records[1:] {
		done, err := s.Forget(t.Context(), name, func(have Record, _ Image) bool { return have.Repository == r.Repository })
		require.NoError(t, err)
		require.Equal(t, Forgotten{Unreadable: 1}, done)
		left, err := s.List(t.Context(), name)
		require.NoError(t, err)
		require.Len(t, left, 4-n)
	}
	require.Equal(t, []string{source("1")}, sources(t, s))
	require.Equal(t, 4, strings.Count(log.String(), `content="\"\\x1b[2J\""`), log.String())
	server.Alien(t, subject.Failure(name, registry, repository, 1), "", []byte("upon it"))
	done, err := s.Forget(t.Context(), name, func(Record, Image) bool { return true })
	require.NoError(t, err)
	require.Equal(t, Forgotten{Images: 1, Unreadable: 1}, done)
	require.Empty(t, sources(t, s))
}

// TestForgetANewerRecord: a record of a newer version is deleted as a whole or not at all.
func TestForgetANewerRecord(t *testing.T) {
	s, _ := open(t)
	m := nats.NewMsg(subject.Failure(name, registry, repository, 1))
	m.Data = fmt.Appendf(nil, `{"version":2,"repository":%q,"registry":%q,"images":[{"source":%q},{"source":%q,"new":1}]}`,
		repository, registry, source("1"), source("2"))
	_, err := s.b.Publish(t.Context(), m)
	require.NoError(t, err)
	n, err := s.MarkLeft(t.Context(), name, without(source("1")), time.Now())
	require.NoError(t, err)
	require.Zero(t, n)
	done, err := s.Forget(t.Context(), name, func(_ Record, i Image) bool { return i.Source == source("1") })
	require.ErrorIs(t, err, errNewer)
	require.Equal(t, Forgotten{}, done)
	kept, err := s.b.Last(t.Context(), broker.StreamName, m.Subject)
	require.NoError(t, err)
	require.Equal(t, m.Data, kept.Data)
	done, err = s.Forget(t.Context(), name, func(Record, Image) bool { return true })
	require.NoError(t, err)
	require.Equal(t, Forgotten{Images: 2}, done)
}
