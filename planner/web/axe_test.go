package web

import (
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// axeVersion is the version of axe-core, which finds accessibility problems.
const axeVersion = "4.14.1"

// axe returns the script of axe-core. Its licence is the MPL, so it is not part of this repository.
func axe(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	pack := exec.CommandContext(t.Context(), "npm", "pack", "--silent", "axe-core@"+axeVersion)
	pack.Dir = folder
	if out, err := pack.CombinedOutput(); err != nil {
		t.Skipf("axe-core %s is not tried: the npm registry is not reached: %s: %s", axeVersion, err, out)
	}
	unpack := exec.CommandContext(t.Context(), "tar", "xzf", "axe-core-"+axeVersion+".tgz", "package/axe.min.js")
	unpack.Dir = folder
	out, err := unpack.CombinedOutput()
	require.NoError(t, err, string(out))
	script, err := os.ReadFile(filepath.Join(folder, "package", "axe.min.js"))
	require.NoError(t, err)
	return string(script)
}

// violation is a problem that axe-core reports.
type violation struct {
	ID    string
	Help  string
	Nodes []struct {
		HTML           string
		FailureSummary string
	}
}

// TestAccessibility: axe-core reports no problem on any page, light or dark, wide or narrow.
func TestAccessibility(t *testing.T) {
	t.Parallel()
	script, awaited := axe(t), true
	f := newFixture(t)
	live := f.bad()
	served := serve(t, Config{}, f.site, quiet)
	locked := serve(t, Config{PasswordFile: passwordFile(t, "ada", "correct horse")}, f.site, quiet)
	ctx := browser(t)
	pages := []string{locked.URL + "/login", served.URL + "/runs/nothing"}
	for _, path := range append(paths(live), "/images?q=nothing", "/failures?q=nothing") {
		pages = append(pages, served.URL+path)
	}
	for _, page := range pages {
		do(t, ctx, chromedp.Navigate(page), chromedp.WaitVisible("main h1"))
		require.True(t, ask[bool](t, ctx, script+`;typeof axe === "object"`))
		for _, c := range []struct {
			scheme string
			width  int64
		}{{"light", 1280}, {"dark", 1280}, {"light", 375}, {"dark", 375}} {
			_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: c.scheme}},
			})
			require.NoError(t, err)
			do(t, ctx, chromedp.EmulateViewport(c.width, 900))
			found := take(t, ctx, chromedp.Evaluate[string](`axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]}).then(r => JSON.stringify({Violations: r.violations, Passed: r.passes.length}))`,
				func(p *runtime.EvaluateParams) { p.AwaitPromise = &awaited }))
			var result struct {
				Violations []violation
				Passed     int
			}
			require.NoError(t, json.Unmarshal([]byte(found), &result))
			require.Greater(t, result.Passed, 10)
			for _, v := range result.Violations {
				for _, n := range v.Nodes[:min(len(v.Nodes), 3)] {
					t.Errorf("%s, %s, %d pixels: %s (%s): %s\n%s", strings.TrimPrefix(page, served.URL), c.scheme, c.width, v.Help, v.ID, n.HTML, n.FailureSummary)
				}
			}
		}
	}
}

// paths returns the path of every page.
func paths(live string) []string {
	return []string{
		"/", "/failures", "/failures?repository=" + url.QueryEscape("quay.io/osism/kolla-ansible"), "/runs", "/runs/" + live, "/images",
		"/images?repository=quay.io/osism/image-01", "/images?repository=quay.io/osism/gone", "/images?repository=quay.io/osism/new",
		"/actions/republish", "/actions/republish?image=quay.io/osism/gone", "/actions/plan", "/actions/cancel?run=" + live,
		"/images/waiting", "/images?repository=" + young.String(), "/actions/release?" + releaseOf("3.1.0", "new").Encode(), "/actions/release?" + releaseOf("3.0.0", "let in").Encode(),
		"/pruning", "/pruning?show=stays", "/pruning?mirror=weekly", "/actions/prune",
	}
}
