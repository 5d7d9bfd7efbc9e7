package failure

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/subject"
)

// reached returns a store at a server that other clients can reach, too.
func reached(t *testing.T) (*Store, *brokertest.Server, *bytes.Buffer) {
	server := brokertest.Start(t)
	var log bytes.Buffer
	return NewStore(brokertest.Open(t, server.Config()), slog.New(slog.NewTextHandler(&log, nil))), server, &log
}

// bodies are messages that are not records.
func bodies() map[string][]byte {
	record := `{"version":1,"repository":"quay.io/a/b","registry":"quay.io","images":[{"source":"quay.io/a/b:1"}]}`
	return map[string][]byte{
		"garbage":       {0xff, 0xfe, 0x00, '{'},
		"empty":         {},
		"truncated":     []byte(record[:40]),
		"another place": []byte(record),
		"other shape":   []byte(`{"images":{"a":1}}`),
		"list":          []byte(`[]`),
		"null":          []byte(`null`),
		"nothing in it": []byte(`{"version":1}`),
		"nameless":      []byte(strings.Replace(record, "quay.io/a/b:1", "", 1)),
		"unknown":       []byte(`{"version":99}`),
		"zeros":         make([]byte, 512<<10),
		"escapes":       []byte("\x1b[2J\x1b]0;owned\x07\u009b31m\u202e"),
	}
}

// places are subjects below mirror.failed for such messages.
func places() []string {
	ours := subject.Failure(name, registry, repository, 1)
	return []string{
		ours, ours + ".2", ours + ".7", ours + ".02", ours + ".x", ours + ".2.3", "mirror.failed.x", "mirror.failed." + name,
		"mirror.failed." + name + ".x", "mirror.failed.NO.x.y", "mirror.failed.*", "mirror.failed." + name + ".>",
		subject.Failure("other", registry, repository, 1), "mirror.failed." + name + ".\x1b[2J.x",
	}
}

// TestForeignMessages: with foreign messages among the failures, records are still listed,
// counted, added to, removed and republished, and the foreign messages are shown.
func TestForeignMessages(t *testing.T) {
	s, server, log := reached(t)
	require.NoError(t, s.Add(t.Context(), name, record("r1", "1", "2", "3")))
	want := 0
	for body, data := range bodies() {
		for i, place := range places() {
			if len(data) > 1<<10 && i%7 > 0 {
				data = data[:1<<10] // the large ones take their time
			}
			server.Alien(t, place, "", data)
			if !strings.HasPrefix(place, "mirror.failed.other") {
				want++
			}
		}
		server.Alien(t, "mirror.failed.header."+strings.ReplaceAll(body, " ", ""), "NATS/1.0\r\nnone\r\n\r\n", data)
		server.Alien(t, "mirror.failed."+name+".quay=2Eio.tombstone", "NATS/1.0\r\nMirror-Tombstone: 1\r\n\r\n", append(data, 'x'))
		want += 2
	}
	unreadable := func() (n int) {
		t.Helper()
		records, err := s.List(t.Context(), name)
		require.NoError(t, err)
		for _, r := range records {
			if !r.Unreadable {
				continue
			}
			n++
			require.Regexp(t, `^message \d+ on "?mirror\.failed\.`, r.Repository)
			require.WithinDuration(t, time.Now(), r.FailedAt, time.Minute)
			require.LessOrEqual(t, len(r.Message), keptBytes)
			require.Len(t, r.Images, 1)
			require.Equal(t, r.Repository, r.Images[0].Source)
			require.Regexp(t, `^this is not a failure record \(.+\): "`, r.Images[0].Reason)
			text := r.Repository + r.Images[0].Reason
			require.Less(t, len(text), 2000)
			require.NotContains(t, text, "\x1b")
			data, err := json.Marshal(r)
			require.NoError(t, err)
			require.Less(t, len(data), 10<<10)
		}
		return n
	}
	kept := func(tags ...any) {
		t.Helper()
		var all, want []string
		records, err := s.List(t.Context(), name)
		require.NoError(t, err)
		for _, r := range records {
			for _, i := range r.Images {
				if !r.Unreadable {
					all = append(all, i.Source)
				}
			}
		}
		for _, tag := range tags {
			want = append(want, source(tag))
		}
		require.Equal(t, want, all)
	}
	require.Equal(t, want, unreadable())
	kept("1", "2", "3")
	counts, err := s.Counter().Count(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]Count{name: {Listed: 3}}, counts.Images)
	require.Equal(t, want+len(bodies()), counts.Unreadable)

	// A foreign message with the subject of a record is removed by the next write of the record,
	// and reported.
	n, err := s.Subtract(t.Context(), name, registry, repository, func(i string) bool { return i == source("2") })
	require.NoError(t, err)
	require.Equal(t, 1, n)
	kept("1", "3")
	require.Equal(t, want-len(bodies()), unreadable())
	require.Equal(t, len(bodies()), strings.Count(log.String(), "overwrote a foreign message among the failure records"))
	require.Contains(t, log.String(), `\\xff\\xfe\\x00{`)

	// What has a page to itself keeps it.
	require.NoError(t, s.Add(t.Context(), name, record("r2", "3", "4")))
	kept("1", "3", "4")
	s.limit = 600
	require.NoError(t, s.Add(t.Context(), name, record("r2", tags(10)...)))
	require.Equal(t, want-len(bodies()), unreadable())
	var all []any
	all = append(append(all, tags(10)...), "1", "3", "4")
	kept(all...)
	done, err := s.Republish(t.Context(), name, "r3", every)
	require.NoError(t, err)
	require.Equal(t, 13, done.Images)
	kept()
	require.Equal(t, want-len(bodies()), unreadable())
}

// TestForeignMessageUponARecord: a foreign message with the subject of a record does not hide the
// record.
func TestForeignMessageUponARecord(t *testing.T) {
	s, server, log := reached(t)
	require.NoError(t, s.Add(t.Context(), name, record("r1", "1")))
	place := subject.Failure(name, registry, repository, 1)
	for i := range 3 {
		server.Alien(t, place, "", fmt.Appendf(nil, "no record %d", i))
	}
	require.NoError(t, s.Add(t.Context(), name, record("r2", "2")))
	require.Equal(t, []string{source("1"), source("2")}, sources(t, s))
	require.Equal(t, 3, strings.Count(log.String(), "overwrote"))

	server.Alien(t, place, "", []byte("no record"))
	done, err := s.Republish(t.Context(), name, "r3", every)
	require.NoError(t, err)
	require.Equal(t, Republished{Chunks: 1, Images: 2}, done)
	require.Empty(t, sources(t, s))
	require.Equal(t, 4, strings.Count(log.String(), "overwrote"))
	m, err := s.b.Last(t.Context(), broker.StreamName, place)
	require.NoError(t, err)
	require.NotEmpty(t, m.Header.Get(headerTombstone))

	server.Alien(t, place, "", []byte("no record")) // upon a tombstone
	require.NoError(t, s.Add(t.Context(), name, record("r3", "1")))
	records, err := s.List(t.Context(), name)
	require.NoError(t, err)
	require.Len(t, records, 2)
	require.NoError(t, s.b.Stream.Purge(t.Context(), jetstream.WithPurgeSubject(place)))
	require.Equal(t, []string{source("1")}, sources(t, s))
}
