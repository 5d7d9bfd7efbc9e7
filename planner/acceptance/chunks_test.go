package acceptance

import (
	"errors"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/subject"
)

// stored returns the chunks in the stream by registry, whether due or not.
func stored(t *testing.T, b *broker.Broker) map[string]message.Chunk {
	t.Helper()
	for {
		if chunks := storedNow(t, b); chunks != nil {
			return chunks
		}
	}
}

// storedNow is stored, but returns nil if a chunk becomes due meanwhile, and so has another subject.
func storedNow(t *testing.T, b *broker.Broker) map[string]message.Chunk {
	t.Helper()
	info, err := b.Stream.Info(t.Context(), jetstream.WithSubjectFilter("mirror.*.default.*.*.*"))
	require.NoError(t, err)
	chunks := map[string]message.Chunk{}
	for at := range info.State.Subjects {
		if strings.HasPrefix(at, subject.Failed+".") {
			continue
		}
		m, err := b.Stream.GetLastMsgForSubject(t.Context(), at)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		require.NoError(t, err)
		c, err := message.Decode(m.Data)
		require.NoError(t, err)
		require.NotContains(t, chunks, c.Registry)
		chunks[c.Registry] = c
	}
	return chunks
}

// sources returns the last parts of the names in a chunk.
func sources(c message.Chunk) (names []string) {
	for _, r := range c.Repositories {
		names = append(names, path.Base(r.Source.Path()))
	}
	return names
}

// eight are the entries of a short list.
var eight = strings.Split("abcdefgh", "")

// noWorkerList returns a list of eight repositories of one registry, except for the named ones. No
// worker runs.
func noWorkerList(elsewhere ...string) string {
	var b strings.Builder
	b.WriteString("containers:\n")
	for _, name := range eight {
		host := "one.example.com"
		if slices.Contains(elsewhere, name) {
			host = "two.example.com"
		}
		b.WriteString("  - " + host + "/lib/" + name + "\n")
	}
	return b.String()
}

func TestChunkNumberTakesOneSlice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		number    string
		elsewhere []string
		expected  map[string][]string
	}{
		{"2", nil, map[string][]string{"one.example.com": {"d", "e", "f"}}},
		{"3", nil, map[string][]string{"one.example.com": {"g", "h"}}},
		{"2", []string{"e"}, map[string][]string{"one.example.com": {"d", "f"}, "two.example.com": {"e"}}},
	} {
		s, server := newFleet(t)
		s.env["CHUNK_SIZE"], s.env["CHUNK_NUMBER"] = "3", c.number
		s.writeList(noWorkerList(c.elsewhere...))
		b := brokertest.Open(t, server.Config())

		table := s.planner("plan", "--dry-run").exits(0)
		require.Empty(t, stored(t, b))
		for _, name := range eight {
			listed := false
			for host, names := range c.expected {
				if slices.Contains(names, name) {
					listed = true
					require.Contains(t, table, host+"/lib/"+name)
				}
			}
			if !listed {
				require.NotContains(t, table, "/lib/"+name)
			}
		}

		s.plan()
		chunks := stored(t, b)
		require.Len(t, chunks, len(c.expected))
		for host, names := range c.expected {
			require.Equal(t, names, sources(chunks[host]))
			require.Equal(t, c.number, string(rune('0'+chunks[host].Number)))
		}
	}
}

func TestChunkNumberOutOfRange(t *testing.T) {
	t.Parallel()
	s, server := newFleet(t)
	s.env["CHUNK_SIZE"], s.env["CHUNK_NUMBER"] = "3", "4"
	s.writeList(noWorkerList())
	require.Equal(t, "The plan is empty: there is no such chunk.\n", s.planner("plan", "--dry-run").exits(0))
	for _, arguments := range [][]string{{"plan"}, {"plan", "--wait"}} {
		require.Equal(t, "Nothing to publish: there is no chunk 4.\n", s.planner(arguments...).exits(0))
	}
	require.Empty(t, stored(t, brokertest.Open(t, server.Config())))
	require.Equal(t, "Nothing to mirror: there is no chunk 4.\n", s.planner("mirror").exits(0))
}
