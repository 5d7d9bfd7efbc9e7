package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/overview"
	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/release"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/prune"
)

const (
	mirror      = "nightly"
	otherMirror = "weekly"
	// script is a name that a hostile registry or list may use.
	script = `<script>hostile()</script>"'><img src=x onerror=hostile()>`
	// turned contains characters that change the direction of writing, and a control character.
	turned = "evil\u202egnp.exe\x1b[2J"
)

// fixture is a site with a broker and data.
type fixture struct {
	t        *testing.T
	b        *broker.Broker
	runs     *run.Store
	failures *failure.Store
	budget   *budget.Store
	changes  *change.Store
	catalog  *catalog.Store
	site     *Site
	prunes   *prune.Store
	releases *release.Store
	actions  *recorder
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	f := &fixture{t: t, b: brokertest.Embedded(t), actions: &recorder{}}
	var err error
	f.runs, err = run.Open(t.Context(), f.b)
	require.NoError(t, err)
	f.budget, err = budget.Open(t.Context(), f.b, quiet)
	require.NoError(t, err)
	t.Cleanup(f.budget.Close)
	f.failures = failure.NewStore(f.b, quiet)
	look := overview.New(overview.Sources{Runs: f.runs, Failures: f.failures, Budget: f.budget}, mirror, 36*time.Hour)
	f.catalog, err = catalog.Open(t.Context(), f.b)
	require.NoError(t, err)
	f.changes, err = change.Open(t.Context(), f.b)
	require.NoError(t, err)
	f.prunes, err = prune.OpenStore(t.Context(), f.b)
	require.NoError(t, err)
	f.releases, err = release.Open(t.Context(), f.b)
	require.NoError(t, err)
	f.site = &Site{
		Mirror: mirror, Overview: look, Failures: f.failures, Changes: f.changes, Catalog: f.catalog, Releases: f.releases, Actions: f.actions, Zone: time.UTC,
		Pruning: &pruner{f.actions, f.prunes}, Prunes: f.prunes, Surveys: func() PruneSurvey { return PruneSurvey{} },
		Unsent:   func() []string { return []string{"slack: refused: 500 " + script} },
		Schedule: func() Schedule { return Schedule{Next: time.Now().Add(5 * time.Hour)} },
	}
	return f
}

// ran stores a run that ended days ago and took the given time.
func (f *fixture) ran(name string, days int, took time.Duration, images run.Tally) string {
	f.t.Helper()
	return f.ranAs(run.Run{Name: name}, days, took, images)
}

func (f *fixture) ranAs(r run.Run, days int, took time.Duration, images run.Tally) string {
	f.t.Helper()
	started := time.Now().UTC().Add(-time.Duration(days)*24*time.Hour - took)
	r.ID, r.Kind, r.Chunks, r.Entries, r.Started, r.FirstDue, r.Published, r.Destination = run.NewID(started), run.KindPlan, 2, 20, started, started, true, "registry.example.com/mirror"
	require.NoError(f.t, f.runs.Put(f.t.Context(), r))
	for _, chunk := range []string{"000001", "000002"} {
		require.NoError(f.t, f.runs.Record(f.t.Context(), subject.NewAddress(r.Name, r.ID, "quay.io", chunk), run.Progress{
			State: run.Done, Images: images, Pulls: images.Copied + 1, Bytes: int64(images.Copied) * 180 << 20, Updated: started.Add(took),
		}))
	}
	return r.ID
}

// runs stores a run of five chunks: three are done, and one is running.
func (f *fixture) running(name string) string {
	f.t.Helper()
	ctx, started := f.t.Context(), time.Now().UTC().Add(-9*time.Minute)
	r := run.Run{Name: name, ID: run.NewID(started), Kind: run.KindPlan, Chunks: 5, Entries: 50, Started: started, FirstDue: started, Published: true, Destination: "registry.example.com/mirror"}
	require.NoError(f.t, f.runs.Put(ctx, r))
	for n := 1; n <= 3; n++ {
		require.NoError(f.t, f.runs.Record(ctx, subject.NewAddress(name, r.ID, "quay.io", fmt.Sprintf("%06d", n)), run.Progress{
			State: run.Done, Images: run.Tally{Total: 130, Copied: 4, Unchanged: 125, Failed: 1}, Pulls: 6, Bytes: 700 << 20, Updated: time.Now().UTC(),
		}))
	}
	address := subject.NewAddress(name, r.ID, "quay.io", "000004")
	_, err := f.b.JS.Publish(ctx, address.Under(subject.Chunk), []byte("a chunk that nobody reads"))
	require.NoError(f.t, err)
	copies := []run.Copy{
		{Image: "quay.io/osism/osism-ansible:9.2.0", Destination: "registry.example.com/mirror/osism/osism-ansible:9.2.0", Worker: "worker-1", Bytes: 312 << 20, Rate: 21 << 20, Since: time.Now().UTC().Add(-15 * time.Second)},
		{Image: "quay.io/osism/" + script, Destination: "registry.example.com/mirror/" + turned, Worker: script, Bytes: 4 << 20, Rate: 900 << 10, Since: time.Now().UTC().Add(-4 * time.Second)},
	}
	require.NoError(f.t, f.runs.Record(ctx, address, run.Progress{
		State: run.Running, Images: run.Tally{Total: 80, Copied: 10, Unchanged: 30}, Pulls: 12, Bytes: 900 << 20, Updated: time.Now().UTC(), UnderWay: copies,
	}))
	_, err = f.b.JS.Publish(ctx, subject.NewAddress(name, r.ID, "docker.io", "000005").Under(subject.Chunk), []byte("another"))
	require.NoError(f.t, err)
	return r.ID
}

// failed records failures of images of a repository.
func (f *fixture) failed(name, repository, reason string, tags ...string) {
	f.t.Helper()
	r := failure.Record{Repository: repository, Registry: "quay.io", Chunk: 3, Run: run.NewID(time.Now())}
	for _, tag := range tags {
		source := repository
		if tag != "" {
			source += ":" + tag
		}
		r.Images = append(r.Images, failure.Image{Source: source, Destination: "registry.example.com/mirror/x:" + tag, Attempts: 5, Reason: reason})
	}
	require.NoError(f.t, f.failures.Add(f.t.Context(), name, r))
}

// bad stores data of a night with every kind of problem, with hostile names.
func (f *fixture) bad() (live string) {
	f.t.Helper()
	ctx := f.t.Context()
	for day := 14; day > 0; day-- {
		images := run.Tally{Total: 420, Copied: (day*37)%23 + 1, Unchanged: 397}
		if day == 3 || day == 9 {
			images.Failed = day
		}
		f.ran(mirror, day, time.Duration(20+(day*13)%17)*time.Minute, images)
	}
	f.ran(otherMirror, 4, time.Hour, run.Tally{Total: 10, Unchanged: 10})
	f.proposes(prunable(3, 4), 100)
	other := prunable(1, 2)
	other.Mirror = otherMirror
	f.proposes(other, 100)
	require.NoError(f.t, f.prunes.Confirm(ctx, otherMirror, other.ID(), 2, "ada"))
	require.NoError(f.t, f.prunes.End(ctx, otherMirror, other.ID(), errors.New("a run is not over: "+script)))
	live = f.running(mirror)
	source, destination := reference.MustRepository("quay.io/osism/osism-ansible"), reference.MustRepository("registry.example.com/mirror/osism/osism-ansible")
	old, recent := reference.DigestOf([]byte("old")), reference.DigestOf([]byte("new"))
	for tag, from := range map[string]reference.Digest{"9.2.0": {}, "latest": old, "9.1.1": {}} {
		require.NoError(f.t, f.changes.Add(ctx, mirror, live, change.Change{Source: source, Destination: destination, Tag: reference.MustTag(tag), From: from, To: recent, Bytes: 312 << 20, At: time.Now().UTC()}))
	}
	for n := range 12 {
		at := time.Now().UTC().Add(-time.Duration(n) * time.Hour)
		require.NoError(f.t, f.catalog.Add(ctx, mirror, catalog.Repository{
			Source: reference.MustRepository(fmt.Sprintf("quay.io/osism/image-%02d", n)), Destination: reference.MustRepository(fmt.Sprintf("registry.example.com/mirror/osism/image-%02d", n)), Checked: at,
			Tags: []catalog.Tag{
				{Name: reference.MustTag("1.0"), Source: recent, At: recent, State: run.Unchanged, Checked: at},
				{Name: reference.MustTag("2.0"), Source: recent, At: old, State: run.Failed, Why: "507 Insufficient Storage: " + script, Checked: at},
				{Name: reference.MustTag("windows"), Source: old, State: run.Skipped, Why: "no wanted platform", Checked: at},
			},
		}))
	}
	f.waits("latest", "new", old, 60*time.Hour)
	f.waits("3.1.0", "new", reference.Digest{}, 60*time.Hour)
	f.waits("2.9.0", "older", reference.Digest{}, -time.Minute)
	f.waits("3.0.0", "let in", old, time.Hour)
	require.NoError(f.t, f.releases.Add(ctx, release.Release{Repository: young, Tag: reference.MustTag("3.0.0"), Digest: reference.DigestOf([]byte("let in")), By: script, At: time.Now().UTC().Add(-time.Minute)}))
	require.NoError(f.t, f.catalog.Plan(ctx, mirror, []catalog.Repository{{
		Source: reference.MustRepository("quay.io/osism/new"), Destination: reference.MustRepository("registry.example.com/mirror/osism/new"), Planned: time.Now().UTC(),
	}}))
	require.NoError(f.t, f.catalog.Add(ctx, mirror, catalog.Repository{
		Source: reference.MustRepository("quay.io/osism/gone"), Destination: reference.MustRepository("registry.example.com/mirror/osism/gone"), Checked: time.Now().UTC(),
		Listed: time.Now().UTC(), Why: "the repository is denied: " + script,
	}))
	require.NoError(f.t, f.changes.Add(ctx, mirror, live, change.Change{Source: source, Destination: destination, Tag: reference.MustTag("8.0.0"), At: time.Now().UTC()}))
	f.failed(mirror, "quay.io/osism/kolla-ansible", "copying: writing blob: uploading layer to registry.example.com: received unexpected HTTP status: 507 Insufficient Storage", "2024.1", "2024.2", "2025.1", "latest")
	f.failed(mirror, "quay.io/osism/gone", "the repository is denied: UNAUTHORIZED: access to the requested resource is not authorized", "")
	f.failed(mirror, "quay.io/osism/"+script, "reason "+script, script, turned)
	require.NoError(f.t, f.budget.SetLimits(ctx, mirror, map[string]budget.Limit{"docker.io": {Requests: 4, Window: 6 * time.Hour}, "quay.io": {Requests: 20, Window: time.Minute}}))
	for range 4 {
		_, err := f.budget.Take(ctx, mirror, "docker.io", "")
		require.NoError(f.t, err)
	}
	require.NoError(f.t, f.budget.Away(ctx, budget.Outage{Registry: "registry.example.com", Activity: budget.Push, Reason: "507 Insufficient Storage: " + script, Started: time.Now()}))
	require.NoError(f.t, f.budget.Refused(ctx, budget.Call{Registry: "ghcr.io", Kind: budget.Pull, Started: time.Now()}, 20*time.Minute, "429 Too Many Requests"))
	return live
}

// young is a repository with waiting tags.
var young = reference.MustRepository("quay.io/osism/young")

// waits records that a tag of young waits, and the digest of the tag at the destination.
func (f *fixture) waits(tag, content string, at reference.Digest, left time.Duration) {
	f.t.Helper()
	now := time.Now().UTC()
	require.NoError(f.t, f.catalog.Add(f.t.Context(), mirror, catalog.Repository{
		Source: young, Destination: reference.MustRepository("registry.example.com/mirror/osism/young"), Checked: now,
		Tags: []catalog.Tag{{Name: reference.MustTag(tag), Source: reference.DigestOf([]byte(content)), At: at, State: run.Waiting, Why: "it waits", Until: now.Add(left), Checked: now}},
	}))
}

// releaseOf returns the form that releases a tag of young.
func releaseOf(tag, content string) url.Values {
	return url.Values{"repository": {young.String()}, "tag": {tag}, "digest": {reference.DigestOf([]byte(content)).String()}}
}

// recorder implements Actions and records its calls.
type recorder struct {
	mu   sync.Mutex
	done []string
}

func (r *recorder) record(what string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = append(r.done, what)
	return "Did " + what + ".", nil
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string{}, r.done...)
}

func (r *recorder) Plan(context.Context) (string, error) { return r.record("plan") }

func (r *recorder) Republish(_ context.Context, mirror string, w Republish) (string, error) {
	return r.record("republish " + mirror + " " + w.Repository + w.Image)
}

func (r *recorder) Cancel(_ context.Context, mirror, id string) (string, error) {
	if mirror == otherMirror {
		return "", errors.New("no such run: " + script)
	}
	return r.record("cancel " + mirror + " " + id)
}

// pruner implements Pruning, records its calls, and confirms plans.
type pruner struct {
	*recorder
	prunes *prune.Store
}

func (p *pruner) Survey(_ context.Context, terms PruneTerms, by string) (string, error) {
	return p.record(fmt.Sprintf("prune %s %s %s %q %t for %s", terms.Grace, terms.Max, terms.PerRepository, terms.Keep, terms.LeftList, by))
}

func (p *pruner) Execute(ctx context.Context, plan string, tags int, by string) (string, error) {
	if err := p.prunes.Confirm(ctx, mirror, plan, tags, by); err != nil {
		return "", err
	}
	return p.record(fmt.Sprintf("execute %d for %s", tags, by))
}

// prunable returns a plan with the given numbers of repositories and of tags in each. As many tags
// stay.
func prunable(repositories, tags int) prune.Plan {
	p := prune.Plan{Version: prune.Version, Mirror: mirror, Destination: "registry.example.com/mirror", Made: time.Now().UTC(), Grace: "720h0m0s", Repositories: []prune.Repository{}, Left: []prune.Left{}}
	since := time.Now().UTC().Add(-41 * 24 * time.Hour)
	for n := range repositories {
		name := reference.MustRepository(fmt.Sprintf("registry.example.com/mirror/osism/image-%04d", n))
		r := prune.Repository{Repository: name, Recorded: 4 * tags, Manifests: []reference.Digest{reference.DigestOf([]byte("child"))}}
		for k := range tags {
			t := prune.Tag{Tag: reference.MustTag(fmt.Sprintf("1.%d.0", k)), Digest: reference.DigestOf([]byte(fmt.Sprint(n, k))), Why: "the source does not list it", Since: since, Bytes: 180 << 20}
			if k == 1 {
				t.Why, t.Of, t.Since = "it belongs to an image that is deleted: "+script, reference.DigestOf([]byte(fmt.Sprint(n, 0))), time.Time{}
			}
			r.Tags = append(r.Tags, t)
			p.Bytes += t.Bytes
		}
		p.Tags += tags
		p.Recorded += r.Recorded
		p.Repositories = append(p.Repositories, r)
		p.Left = append(p.Left, prune.Left{Repository: name, Tag: reference.MustTag("2.0"), Why: "the list names it again " + script})
	}
	return p
}

// proposes stores a plan for review, with caps.
func (f *fixture) proposes(p prune.Plan, all float64) string {
	f.t.Helper()
	require.NoError(f.t, f.prunes.Propose(f.t.Context(), p, prune.Terms{Caps: prune.Caps{All: prune.MustShare(all), PerRepository: prune.MustShare(50)}}, "ada"))
	return p.ID()
}

// serve serves the site. If site is nil, the broker is not connected yet.
func serve(t *testing.T, c Config, site *Site, log *slog.Logger) *httptest.Server {
	t.Helper()
	if c.Addr == "" {
		c.Addr = "127.0.0.1:0"
	}
	require.Empty(t, c.Validate())
	probes := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprintln(w, "probe of", r.URL.Path) })
	s, err := Listen(c, "test", probes, log)
	require.NoError(t, err)
	if site != nil {
		s.Show(site)
	}
	require.NoError(t, s.listener.Close())
	served := httptest.NewServer(s.http.Handler)
	t.Cleanup(served.Close)
	return served
}
