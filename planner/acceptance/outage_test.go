package acceptance

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// outages are the ways in which a registry is away, with the reason that each causes.
var (
	pushing = func(r registrytest.Request) bool {
		return r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch
	}
	page = registrytest.Fault{Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<html><title>Sign in</title></html>"}
)

func denied(status int, message string) registrytest.Fault {
	return registrytest.Fault{Match: pushing, Status: status, Body: fmt.Sprintf(`{"errors":[{"code":"DENIED","message":%q}]}`, message)}
}

// closedRegistry waits until the fleet has closed the registry for the reason. The reason of the
// first failure may differ: a registry that stops also resets connections.
func (s *site) closedRegistry(host, reason string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		return slices.ContainsFunc(s.status().Registries, func(r run.Registry) bool {
			return r.Registry == host && r.ClosedSince != nil && strings.Contains(r.Reason, reason)
		})
	}, patience, asking, "%s is never closed: %s", host, reason)
}

// TestOutage: a registry goes away during a run of three workers, and comes back. No image fails,
// few requests are sent meanwhile, and the run ends soon after. The cases are one of each kind;
// worker/outage tests the others.
func TestOutage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault   registrytest.Fault
		source  bool
		stop    bool
		builtin bool
		reason  string
	}{
		"builtin, push 503":   {builtin: true, fault: registrytest.Fault{Match: pushing, Status: 503}, reason: "503"},
		"builtin, layers 500": {builtin: true, fault: registrytest.Fault{Match: blobs, Status: 500}, source: true, reason: "500"},
		"destination refused": {stop: true, reason: "connection refused"},
		"destination quota":   {fault: denied(403, "quota exceeded"), reason: "quota exceeded"},
		"destination silent":  {fault: registrytest.Fault{Hang: true}, reason: "3s"},
		"source gone":         {fault: registrytest.Fault{Status: 404, Body: "404 page not found"}, source: true, reason: "404"},
		"source 503":          {fault: registrytest.Fault{Status: 503}, source: true, reason: "503"},
		"source page":         {fault: page, source: true, reason: "HTML page"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const repositories, tags, chunk = 12, 2, 2
			s, _ := newFleet(t)
			s.env["CHUNK_SIZE"] = fmt.Sprint(chunk)
			if test.fault.Hang {
				s.env["STALL_TIMEOUT"] = "3s"
			}
			if test.builtin {
				s.env["COPY_ENGINE"] = "builtin"
			}
			var names []string
			for i := range repositories {
				name := fmt.Sprintf("osism/service%02d", i)
				s.push(name, registrytest.Numbered("%d", tags)...)
				names = append(names, name)
			}
			s.write(names...)
			away := s.destination
			if test.source {
				away = s.source
			}
			back := away.Restart
			strike := away.Stop
			if !test.stop {
				strike = func() {
					remove := away.Inject(test.fault)
					back = func() error { remove(); return nil }
				}
			}
			// Half of the repositories wait for the outage, however fast the workers are.
			open := s.gate(func(r registrytest.Request) bool { return slices.Contains(names[repositories/2:], r.Repository) })
			copied := s.destination.Notify(registrytest.All(registrytest.Kinds(registrytest.KindManifestPut), registrytest.Answered(201)))
			for range 3 {
				s.worker()
			}
			plan := s.planner("plan", "--wait")
			<-copied
			strike()
			open()
			s.closedRegistry(away.Host(), test.reason)

			// Copies under way end. After that, only probes are sent.
			s.becomes("", run.StateSnoozed)
			s.source.ResetRequests()
			s.destination.ResetRequests()
			begin := time.Now()
			require.Eventually(t, func() bool { return time.Since(begin) > 6*time.Second }, patience, tick)
			asked := s.source.Count(registrytest.Any) + s.destination.Count(registrytest.Any)
			require.LessOrEqual(t, asked, 60, "requests in six seconds")
			require.Empty(t, s.failed())

			require.NoError(t, back())
			// The registry may stay closed for another half a minute.
			require.Contains(t, plan.exitsWithin(30*time.Second+patience, 0), "is done")
			s.requireMirrored(names...)
			require.Empty(t, s.failed())
			images := s.status().Images
			require.Equal(t, repositories*tags, images.Total)
			require.Zero(t, images.Failed)
		})
	}
}

// TestOutageTimeout: a run that waits too long ends as unfinished, and names the registry. The rest
// continues when the registry is back.
func TestOutageTimeout(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.env["OUTAGE_TIMEOUT"] = "2s"
	s.push("osism/tool", "1", "2")
	s.write("osism/tool")
	s.destination.Stop()
	s.worker()
	said := s.planner("plan", "--wait").exits(4)
	id := runID(t, said)
	require.Regexp(t, `planner: unfinished: `+s.destination.Host()+` has been away since \S+: .*connection refused; 1 of 1 chunk of run `+id+` left: workers continue when it is back\n`, said)
	require.Contains(t, said, "The rest is kept")
	s.becomes(id, run.StateSnoozed)
	text := s.planner("status").exits(0)
	require.Regexp(t, s.destination.Host()+` +none known .* away for \d+s`, text)
	require.Contains(t, text, s.destination.Host()+" has been away since ")
	require.Empty(t, s.failed())

	require.NoError(t, s.destination.Restart())
	s.becomes(id, run.StateDone)
	s.requireMirrored("osism/tool")
	require.Empty(t, s.failed())
	require.Empty(t, s.status(id).Registries)
}

// TestMirrorGoesOnAfterAnOutage: the next planner mirror on the machine continues the run.
func TestMirrorGoesOnAfterAnOutage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.env["OUTAGE_TIMEOUT"] = "1s"
	s.push("osism/tool", "1", "2")
	s.write("osism/tool")
	remove := s.destination.Inject(registrytest.Fault{Status: 503})
	said := s.planner("mirror").exits(4)
	id := runID(t, said)
	require.Regexp(t, `planner: unfinished: `+s.destination.Host()+` has been away since .*503.*; 1 of 1 chunk of run `+id+` left: the same command continues it\n`, said)
	remove()
	said = s.with("OUTAGE_TIMEOUT", "1h").planner("mirror").exits(0)
	require.Contains(t, said, "Continuing run "+id)
	s.requireMirrored("osism/tool")
	require.Empty(t, s.failed())
}

// TestOthersGoOn: a registry that is away does not delay chunks of other registries.
func TestOthersGoOn(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.env["CHUNK_SIZE"] = "1"
	other := registrytest.New(t)
	s.env["INSECURE_REGISTRIES"] += "," + other.Host()
	s.push("osism/tool", "1")
	text := "containers:\n"
	for i := range 5 {
		_, err := other.PushImage(fmt.Sprintf("osism/other%d", i), "1", registrytest.Image{})
		require.NoError(t, err)
		text += fmt.Sprintf("  - %s/osism/other%d\n", other.Host(), i)
	}
	s.writeList(text + "  - " + s.source.Host() + "/osism/tool\n")
	other.Stop()
	s.worker()
	plan := s.planner("plan", "--wait")
	plan.says("Published run")
	s.closedRegistry(other.Host(), "connection refused")
	require.Eventually(t, func() bool { return s.status().Images.Copied == 1 }, patience, asking)
	s.requireMirrored("osism/tool")
	require.NoError(t, other.Restart())
	plan.exits(0)
	require.Equal(t, 6, s.status().Images.Copied)
}

// TestWhatFailsByItself: an image with a broken layer and repositories that refuse access still
// fail with their reasons, while all other images are mirrored.
func TestWhatFailsByItself(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.env["CHUNK_SIZE"], s.env["MAX_ATTEMPTS"] = "1", "3"
	s.push("osism/broken", "1", "2")
	layer, mend, err := s.source.BreakImage("osism/broken", "2")
	require.NoError(t, err)
	require.NoError(t, mend())
	s.source.Inject(registrytest.Fault{Match: registrytest.Ref(layer), Status: 500})
	names := []string{"osism/a", "osism/b", "osism/c"}
	refused := map[string]bool{}
	for i := range 4 {
		name := fmt.Sprintf("osism/refused%d", i)
		s.push(name, "1")
		refused[prefix+"/"+name] = true
	}
	for _, name := range names {
		s.push(name, "1", "2")
	}
	s.destination.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool { return pushing(r) && refused[r.Repository] }, Status: 403})
	s.write("osism/a", "osism/refused0", "osism/refused1", "osism/broken", "osism/refused2", "osism/refused3", "osism/b", "osism/c")
	for range 3 {
		s.worker()
	}
	said := s.planner("plan", "--wait").exits(1)
	require.Contains(t, said, "ended with failures")
	s.requireMirrored(names...)
	images := s.status().Images
	require.Equal(t, 5, images.Failed)
	require.Equal(t, 7, images.Copied+images.Tagged)
	for _, record := range s.failed() {
		require.Len(t, record.Images, 1)
		if image := record.Images[0]; record.Repository == s.source.Host()+"/osism/broken" {
			require.Contains(t, image.Reason, "500")
			require.Equal(t, 3, image.Attempts)
		} else {
			require.Contains(t, image.Reason, "403")
			require.Equal(t, 2, image.Attempts)
		}
	}
}

// TestNewWorkerAndRefusals: repositories that refuse access fail by themselves, also if they are all that
// a worker has tried since it started: other repositories that were mirrored in an earlier run still work.
func TestNewWorkerAndRefusals(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.push("osism/fine", "1")
	s.write("osism/fine")
	earlier := s.worker()
	s.planner("plan", "--wait").exits(0)
	earlier.kill()

	refused := registrytest.Numbered("osism/refused%d", 4)
	for _, name := range refused {
		s.push(name, "1")
	}
	s.destination.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool { return pushing(r) && r.Repository != prefix+"/osism/fine" }, Status: 403})
	s.write(refused...)
	s.worker()
	require.Contains(t, s.planner("plan", "--wait").exits(1), "ended with failures")
	require.Len(t, s.failed(), len(refused))
}
