package web

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/prune"
)

// screenshots is the folder in which TestPages stores screenshots. If it is empty, there are none.
var screenshots = flag.String("screenshots", "", "folder for screenshots of the pages")

// browserTime bounds the start of a browser and each step in it. On a busy machine, they take seconds.
const browserTime = 2 * time.Minute

// browser starts Chromium. The test fails if a page throws or logs an error, or if the policy of
// the page blocks something, unless expected returns true for it.
func browser(t *testing.T, expected ...func(string) bool) context.Context {
	t.Helper()
	allocator, cancel := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.WSURLReadTimeout(browserTime))...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("the page throws: %s", e.ExceptionDetails.Text)
		case *log.EventEntryAdded:
			if strings.Contains(e.Entry.Text, "status of 401") || strings.Contains(e.Entry.Text, "status of 404") || strings.Contains(e.Entry.Text, "status of 409") {
				return // of a wrong password, of a page that is to be missing, or of an action that came too late
			}
			if slices.ContainsFunc(expected, func(known func(string) bool) bool { return known(e.Entry.Text) }) {
				return
			}
			t.Errorf("the browser logs: %s (%s)", e.Entry.Text, e.Entry.URL)
		}
	}))
	_, err := chromedp.Call(ctx, log.Enable, cdp.Empty{})
	require.NoError(t, err)
	return ctx
}

// do executes steps, each as soon as its node exists. The browser may replace the document or, on a
// live page, its content, between finding a node and using it. Then do looks the node up again.
func do(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	for _, step := range steps {
		take(t, ctx, step)
	}
}

// take executes one step as do does, and returns its result.
func take[T any](t *testing.T, ctx context.Context, step chromedp.Action[T]) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, browserTime)
	defer cancel()
	value, err := chromedp.Run(ctx, step)
	for replaced(err) {
		value, err = chromedp.Run(ctx, step)
	}
	require.NoError(t, err)
	return value
}

// replaced reports whether the browser says that a node is no longer in the document.
func replaced(err error) bool {
	var refused *cdproto.Error
	return errors.As(err, &refused) && (strings.HasPrefix(refused.Message, "Could not find node") || refused.Message == "Node is detached from document")
}

// ask returns the value of an expression in the page.
func ask[T any](t *testing.T, ctx context.Context, expression string) T {
	t.Helper()
	return take(t, ctx, chromedp.Evaluate[T](expression))
}

// sees loads a page at a width. It returns elements that are wider than the screen, and elements
// that a hostile name has created.
func sees(t *testing.T, ctx context.Context, url, name string, width int64, dark bool) {
	t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	require.NoError(t, err)
	do(t, ctx, chromedp.EmulateViewport(width, 900), chromedp.Navigate(url), chromedp.WaitVisible("main h1"))
	require.LessOrEqual(t, ask[int](t, ctx, `document.documentElement.scrollWidth - innerWidth`), 0, "%s is wider than %d pixels", url, width)
	require.Zero(t, ask[int](t, ctx, `document.images.length`))
	require.Equal(t, 1, ask[int](t, ctx, `document.scripts.length`))
	if *screenshots != "" {
		picture := take(t, ctx, chromedp.FullScreenshot(100))
		require.NoError(t, os.WriteFile(filepath.Join(*screenshots, name+".png"), picture, 0o600))
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	live := f.bad()
	served := serve(t, Config{}, f.site, slog.New(slog.DiscardHandler))
	ctx := browser(t)
	for name, path := range map[string]string{
		"now": "/", "failures": "/failures", "runs": "/runs", "run": "/runs/" + live, "images": "/images", "waiting": "/images/waiting", "young": "/images?repository=" + young.String(), "release": "/actions/release?" + releaseOf("latest", "new").Encode(), "unlisted": "/images?repository=quay.io/osism/gone", "unseen": "/images?repository=quay.io/osism/new", "repository": "/images?repository=quay.io/osism/image-01", "pruning": "/pruning", "stays": "/pruning?show=stays", "confirm": "/actions/republish?repository=" + "quay.io/osism/gone",
	} {
		for suffix, width := range map[string]int64{"": 1280, "-phone": 375} {
			sees(t, ctx, served.URL+path, name+suffix, width, slices.Contains([]string{"runs", "failures-phone", "now-phone", "repository-phone", "waiting-phone", "young", "pruning-phone", "stays"}, name+suffix))
		}
	}
}

// seesAll loads, wide and narrow, the pages that grow with the mirror.
func seesAll(t *testing.T, ctx context.Context, url, name string) {
	t.Helper()
	for _, page := range []string{"", "failures", "runs", "images", "pruning"} {
		sees(t, ctx, url+"/"+page, name+page, 1280, false)
		sees(t, ctx, url+"/"+page, name+page+"-phone", 375, true)
	}
}

// shows waits until the page contains the text.
func shows(t *testing.T, ctx context.Context, text string) {
	t.Helper()
	require.Eventually(t, func() bool {
		got, err := chromedp.Run(ctx, chromedp.Text(chromedp.CSS("body")))
		return err == nil && strings.Contains(got, text)
	}, browserTime, 50*time.Millisecond, "%s", text)
}

// TestClicks: a user republishes with script, without script, and with the keyboard only.
func TestClicks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.bad()
	served := serve(t, Config{}, f.site, quiet)
	ctx := browser(t)
	do(t, ctx, chromedp.Navigate(served.URL+"/failures"), chromedp.Click(chromedp.CSS(`a[href*="osism%2Fgone"]`)))
	shows(t, ctx, "Retry the failed images of quay.io/osism/gone?")
	require.Empty(t, f.actions.all(), "a link does nothing")
	do(t, ctx, chromedp.Click(chromedp.CSS("button.main")))
	shows(t, ctx, "Did republish nightly quay.io/osism/gone.")

	do(t, ctx, chromedp.Navigate(served.URL+"/failures"), chromedp.Click(chromedp.CSS(`a[title="Republish quay.io/osism/kolla-ansible:2024.2…"]`)))
	shows(t, ctx, "Retry the failed image quay.io/osism/kolla-ansible:2024.2?")
	do(t, ctx, chromedp.Click(chromedp.CSS("button.main")))
	shows(t, ctx, "Did republish nightly quay.io/osism/kolla-ansible:2024.2.")

	_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	require.NoError(t, err)
	do(t, ctx, chromedp.Navigate(served.URL+"/"), chromedp.Click(chromedp.CSS(`a[href="/actions/plan"]`)))
	shows(t, ctx, "Fetch the list and plan mirror nightly now?")
	// Enter presses the focused button.
	do(t, ctx, chromedp.Focus(chromedp.CSS("button.main")), chromedp.KeyEvent("\r"))
	shows(t, ctx, "Did plan.")
	require.Equal(t, []string{"republish nightly quay.io/osism/gone", "republish nightly quay.io/osism/kolla-ansible:2024.2", "plan"}, f.actions.all())
}

// TestPruneInBrowser: a user types the number of tags of a plan to confirm it, and follows its
// execution.
func TestPruneInBrowser(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.ran(mirror, 1, time.Hour, run.Tally{Total: 1, Copied: 1})
	served := serve(t, Config{}, f.site, quiet)
	ctx := browser(t)
	do(t, ctx, chromedp.Navigate(served.URL+"/"), chromedp.Click(chromedp.CSS(`a[href="/pruning"]`)))
	shows(t, ctx, "No plan was made in the last 90 days.")
	do(t, ctx, chromedp.SendKeys(chromedp.CSS("#keep"), "lts-"), chromedp.Click(chromedp.CSS(`label[for="left-list"]`)), chromedp.Click(chromedp.CSS(`form[action="/actions/prune"] button`)))
	shows(t, ctx, `Did prune 30d 10% 50% ["lts-"] true for anonymous.`)
	over := f.proposes(prunable(2, 5), 10)
	sees(t, ctx, served.URL+"/pruning", "pruning-over-phone", 375, false)
	require.Zero(t, ask[int](t, ctx, `document.querySelectorAll('form[action="/actions/execute"]').length`), over)
	id := f.proposes(prunable(2, 5), 100)
	do(t, ctx, chromedp.Navigate(served.URL+"/pruning"), chromedp.SendKeys(chromedp.CSS("#tags"), "11\r"))
	shows(t, ctx, "This is not the number of tags of the plan, which is 10.")
	do(t, ctx, chromedp.SendKeys(chromedp.CSS("#tags"), "10\r"))
	shows(t, ctx, "0 of 2 repositories done")
	lease, err := f.prunes.Take(t.Context(), mirror, prune.Holder{Plan: id, By: "ada", Process: "1"}, nil)
	require.NoError(t, err)
	require.NoError(t, lease.Finish(t.Context(), 0, prune.Outcome{Deleted: 5}))
	shows(t, ctx, "1 of 2 repositories done")
	sees(t, ctx, served.URL+"/pruning", "pruning-executed", 1280, true)
	require.NoError(t, lease.Release(t.Context(), &prune.Last{Plan: id, By: "ada", At: time.Now(), Why: "not everything could be deleted: " + script, Outcome: prune.Outcome{Deleted: 9, Failed: 1}}))
	shows(t, ctx, "You can execute the rest.")
	sees(t, ctx, served.URL+"/pruning", "pruning-stopped-phone", 375, true)
}

// TestLive: a live page shows changes without a reload.
func TestLive(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	served := serve(t, Config{}, f.site, quiet)
	ctx := browser(t)
	do(t, ctx, chromedp.Navigate(served.URL+"/"))
	shows(t, ctx, "Nothing has run")
	f.ran(mirror, 0, time.Hour, run.Tally{Total: 1, Copied: 1})
	shows(t, ctx, "Every image of the list is mirrored.")
}

// TestLoginInBrowser: after a login, the browser keeps the cookie and sends it.
func TestLoginInBrowser(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	served := serve(t, Config{PasswordFile: passwordFile(t, "ada", "correct horse")}, f.site, quiet)
	ctx := browser(t)
	do(t, ctx, chromedp.Navigate(served.URL+"/runs"))
	shows(t, ctx, "Log in")
	do(t, ctx, chromedp.SendKeys(chromedp.CSS("#user"), "ada"), chromedp.SendKeys(chromedp.CSS("#password"), "wrong\r"))
	shows(t, ctx, "Wrong user or password.")
	do(t, ctx, chromedp.SendKeys(chromedp.CSS("#password"), "correct horse\r"))
	shows(t, ctx, "Nothing has run in the last 30 days.")
	do(t, ctx, chromedp.Click(chromedp.CSS(`form[action="/logout"] button`)))
	shows(t, ctx, "Password")
	do(t, ctx, chromedp.Navigate(served.URL+"/runs"))
	shows(t, ctx, "Password")
}
