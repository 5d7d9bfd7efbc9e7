package acceptance

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// prefix is the path of the mirror at the destination.
const prefix = "mirror"

// site is a source, a destination, a list, and the environment of the processes.
type site struct {
	t                   *testing.T
	source, destination *registrytest.Registry
	list                string // its path
	env                 map[string]string
}

// newSite returns a site without a broker, for processes with an embedded one.
func newSite(t *testing.T, source ...registrytest.Option) *site {
	t.Helper()
	s := &site{
		t:           t,
		source:      registrytest.New(t, source...),
		destination: registrytest.New(t),
		list:        filepath.Join(t.TempDir(), "images.yml"),
	}
	s.env = map[string]string{
		"MIRROR_SOURCE_URL":   s.list,
		"MIRROR_DEST_URL":     s.destination.Host() + "/" + prefix,
		"INSECURE_REGISTRIES": s.source.Host() + "," + s.destination.Host(),
		"DATA_DIR":            filepath.Join(t.TempDir(), "data"),
	}
	return s
}

// newFleet returns a site with a broker that its processes share.
func newFleet(t *testing.T, source ...registrytest.Option) (*site, *brokertest.Server) {
	t.Helper()
	s, b := newSite(t, source...), brokertest.Start(t)
	s.env["NATS_URL"] = b.URL()
	return s, b
}

// push stores single images in a repository of the source, and returns their digests.
func (s *site) push(repository string, tags ...string) []string {
	s.t.Helper()
	var digests []string
	for _, tag := range tags {
		digest, err := s.source.PushImage(repository, tag, registrytest.Image{Version: tag})
		require.NoError(s.t, err)
		digests = append(digests, digest)
	}
	return digests
}

// write writes a list of repositories and tags of the source, repository[:tag].
func (s *site) write(entries ...string) {
	s.t.Helper()
	text := "containers:\n"
	for _, e := range entries {
		text += "  - " + s.source.Host() + "/" + e + "\n"
	}
	s.writeList(text)
}

func (s *site) writeList(text string) {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(s.list, []byte(text), 0o600))
}

// with returns the site with other variables, given in pairs.
func (s *site) with(pairs ...string) *site {
	other := *s
	other.env = maps.Clone(s.env)
	for i := 0; i < len(pairs); i += 2 {
		other.env[pairs[i]] = pairs[i+1]
	}
	return &other
}

func (s *site) planner(arguments ...string) *process {
	s.t.Helper()
	return start(s.t, s.env, "", "planner", arguments...)
}

// served returns the site with an address for metrics, which a worker needs.
func (s *site) served() *site { return s.with("METRICS_ADDR", "127.0.0.1:0") }

// worker starts a worker, and waits until it takes chunks.
func (s *site) worker() *process {
	s.t.Helper()
	p := start(s.t, s.served().env, "", "worker")
	p.says("worker is running")
	return p
}

// plan publishes the list, and returns the id of the run.
func (s *site) plan() string {
	s.t.Helper()
	return runID(s.t, s.planner("plan").exits(0))
}

var id = regexp.MustCompile(`\b\d{8}-\d{6}-\d{3}-[0-9a-f]{4}\b`)

// runID returns the id of the run in the output of planner.
func runID(t *testing.T, said string) string {
	t.Helper()
	found := id.FindString(said)
	require.NotEmpty(t, found, said)
	return found
}

// status returns the status of a run, or of the newest one.
func (s *site) status(run ...string) (status run.Status) {
	s.t.Helper()
	p := s.planner(append([]string{"status", "-o", "json"}, run...)...)
	p.exits(0)
	require.NoError(s.t, json.Unmarshal([]byte(p.stdout.String()), &status))
	return status
}

// becomes waits until the run has the state.
func (s *site) becomes(run, state string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return s.status(run).State == state }, patience, asking, "run %s is never %s", run, state)
}

// failedImage and failedRepository are the format of planner failed -o json on which scripts rely.
type failedImage struct {
	Source, Destination, Reason string
	Attempts                    int
	LeftList                    string `json:"left_list"`
}

type failedRepository struct {
	Repository, Registry, Run string
	Chunk                     int
	Images                    []failedImage
}

// failed returns the output of planner failed.
func (s *site) failed() (records []failedRepository) {
	s.t.Helper()
	p := s.planner("failed", "-o", "json")
	p.exits(0)
	require.NoError(s.t, json.Unmarshal([]byte(p.stdout.String()), &records))
	return records
}

// republish republishes failures, and returns the id of the run.
func (s *site) republish(arguments ...string) string {
	s.t.Helper()
	return runID(s.t, s.planner(append([]string{"republish"}, arguments...)...).exits(0))
}

// requireMirrored checks that every tag of the repositories is complete at the destination, with
// its digest.
func (s *site) requireMirrored(repositories ...string) {
	s.t.Helper()
	for _, repository := range repositories {
		tags, err := s.source.Tags(repository)
		require.NoError(s.t, err)
		require.NotEmpty(s.t, tags)
		for _, tag := range tags {
			want, err := s.source.Digest(repository, tag)
			require.NoError(s.t, err)
			got, err := s.destination.Digest(prefix+"/"+repository, tag)
			require.NoError(s.t, err)
			require.Equal(s.t, want, got, "%s:%s", repository, tag)
			require.NoError(s.t, s.destination.Check(prefix+"/"+repository, tag))
		}
	}
}

// gate delays matching requests to the source until it is opened.
func (s *site) gate(match registrytest.Match) (open func()) {
	held := make(chan struct{})
	remove := s.source.Inject(registrytest.Fault{Match: match, Gate: held})
	return func() {
		remove()
		close(held)
	}
}

// waitFor waits until the source has received a matching request.
func (s *site) waitFor(match registrytest.Match) { s.t.Helper(); waitFor(s.t, s.source, match) }

func waitFor(t *testing.T, r *registrytest.Registry, match registrytest.Match) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, r.WaitFor(ctx, match))
}

// distinct matches the first request with which n different values have matched.
func distinct(n int, match registrytest.Match, value func(registrytest.Request) string) registrytest.Match {
	seen := map[string]bool{}
	return func(r registrytest.Request) bool {
		if match(r) {
			seen[value(r)] = true
		}
		return len(seen) >= n
	}
}

func repository(r registrytest.Request) string { return r.Repository }
func reference(r registrytest.Request) string  { return r.Reference }

var (
	pulls = registrytest.Kinds(registrytest.KindManifestGet)
	blobs = registrytest.Kinds(registrytest.KindBlobGet)
)

// of matches the requests about a repository of the source.
func of(repository string, match registrytest.Match) registrytest.Match {
	return registrytest.All(registrytest.In(repository), match)
}
