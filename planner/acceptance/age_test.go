package acceptance

import (
	"html"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
)

// TestMinimumAge: a new tag waits, and the run after its release mirrors it. A tag that moves after
// the release waits again.
func TestMinimumAge(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1")
	s.write("osism/tool")
	s.env["MIN_AGE"] = "3d"
	image := s.source.Host() + "/osism/tool:1"

	require.Contains(t, s.planner("check").exits(0), "WAITING")
	require.Contains(t, s.planner("mirror").exits(0), "waiting")
	require.Equal(t, run.Tally{Total: 1, Waiting: 1}, s.status().Images)
	require.Empty(t, s.failed())
	require.Regexp(t, `(?m)^`+image+` +sha256:[0-9a-f]{12} +- +\d{4}-.* UTC \(in (?:3d|2d23h)\)$`, s.planner("release").exits(0))
	require.Contains(t, s.planner("release", s.source.Host()+"/osism/tool:2").exits(2), "the image does not wait: no run has left "+s.source.Host()+"/osism/tool:2 waiting")
	require.Contains(t, s.planner("release", s.source.Host()+"/osism/other").exits(2), "the image does not wait: no run has left "+s.source.Host()+"/osism/other waiting")

	said := s.planner("release", image).exits(0)
	require.Contains(t, said, "Released "+image+"@sha256:")
	require.Contains(t, said, "released an image from its minimum age")
	s.planner("mirror").exits(0)
	s.requireMirrored("osism/tool")
	require.Contains(t, s.planner("release").exits(0), "No image waits")
	require.Regexp(t, `RELEASED +DIGEST +BY +AT +UNTIL\n`+image, s.planner("release").exits(0))

	s.push("osism/tool", "2")
	digest, err := s.source.Digest("osism/tool", "2")
	require.NoError(t, err)
	require.NoError(t, s.source.Tag("osism/tool", "1", digest))
	s.planner("mirror").exits(0)
	require.Equal(t, run.Tally{Total: 2, Waiting: 2}, s.status().Images)
	said = s.planner("release", s.source.Host()+"/osism/tool").exits(0)
	require.Contains(t, said, "Released "+image+"@"+digest)
	require.Contains(t, said, "Released "+s.source.Host()+"/osism/tool:2@"+digest)
	s.planner("mirror").exits(0)
	s.requireMirrored("osism/tool")
}

// TestReleaseOnPage: a user sees a waiting image and releases it. The next run mirrors it.
func TestReleaseOnPage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "2")
	s.write("osism/tool")
	s = s.with("MIRROR_SCHEDULE", never, "MIN_AGE", "3d")
	serve, page := s.serve()
	require.Eventually(t, func() bool { return strings.Contains(get(t, page), "2 that wait for their minimum age") }, patience, tick)
	link := regexp.MustCompile(`href="/actions/release\?([^"]+)" aria-label="Release ` + s.source.Host() + `/osism/tool:1…"`)
	found := link.FindStringSubmatch(get(t, page+"/images/waiting"))
	require.NotNil(t, found)
	seen, err := url.ParseQuery(html.UnescapeString(found[1]))
	require.NoError(t, err)
	require.Contains(t, get(t, page+"/actions/release?"+seen.Encode()), "before its minimum age?")
	digest, err := s.source.Digest("osism/tool", "1")
	require.NoError(t, err)
	require.Contains(t, post(t, page+"/actions/release", seen), "Released "+s.source.Host()+"/osism/tool:1@"+digest+": the next run mirrors it.")
	serve.says(`msg="audit: action done" action=release`)
	require.Contains(t, post(t, page+"/actions/plan", nil), "Published run")
	require.Eventually(t, func() bool { return s.status().Images == run.Tally{Total: 2, Copied: 1, Waiting: 1} }, patience, tick)
	mirrored, err := s.destination.Digest(prefix+"/osism/tool", "1")
	require.NoError(t, err)
	require.Equal(t, digest, mirrored)
	_, err = s.destination.Digest(prefix+"/osism/tool", "2")
	require.Error(t, err)
	require.NotRegexp(t, link, get(t, page+"/images/waiting"))
	require.Contains(t, s.planner("release").exits(0), "anonymous")
	serve.signal(syscall.SIGTERM)
	serve.exits(0)
}
