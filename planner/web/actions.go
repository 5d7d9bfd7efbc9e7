package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/prune"
)

// action is something that the page offers to do.
type action struct {
	Name       string
	Mirror     string
	Repository string // of republish
	Image      string // of republish; all if both are empty
	Run        string // of cancel
	Plan       string // of execute: the ID of a prune plan
	Tags       int    // of execute: how many it has, as the user says
	Terms      PruneTerms
	back       string // the page that it is offered on
}

// errNotOffered is returned for an action that the page does not have.
var errNotOffered = fmt.Errorf("%w: there is no such action", errBadRequest)

// parseAction reads an action from a request. Names are held to what they may be before
// anything is asked of the broker.
func parseAction(site *Site, name string, values url.Values) (action, error) {
	a := action{Name: name, Mirror: values.Get("mirror"), Repository: values.Get("repository"), Image: values.Get("image"), Run: values.Get("run")}
	if a.Mirror == "" {
		a.Mirror = site.Mirror
	}
	empty := values.Has("repository") && a.Repository == "" || values.Has("image") && a.Image == ""
	if !subject.ValidName(a.Mirror) || empty { // what is empty by mistake must not republish everything
		return a, errNotOffered
	}
	switch {
	case name == "plan" && a.Mirror == site.Mirror:
		a.back = "/"
	case name == "republish" && (a.Repository == "" || a.Image == ""):
		a.back = "/failures"
	case name == "cancel" && run.ValidID(a.Run):
		a.back = "/runs/" + a.Run
	case name == "prune" && a.Mirror == site.Mirror:
		a.Terms = PruneTerms{values.Get("grace"), values.Get("max"), values.Get("max_per_repository")}
		a.back = "/pruning"
	case name == "execute" && a.Mirror == site.Mirror && planID.MatchString(values.Get("plan")):
		a.Plan, a.Tags = values.Get("plan"), typed(values.Get("tags"))
		a.back = "/pruning"
	default:
		return a, errNotOffered
	}
	return a, nil
}

// planID is the ID of a prune plan.
var planID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// typed is a number as a user types it, perhaps with spaces; -1 if it is none.
func typed(text string) int {
	n, err := strconv.Atoi(strings.Join(strings.Fields(text), ""))
	if err != nil {
		return -1
	}
	return n
}

// Question is what a user confirms.
func (a action) Question() string {
	switch {
	case a.Name == "plan":
		return "Fetch the list and plan mirror " + a.Mirror + " now?"
	case a.Name == "cancel":
		return "Cancel the chunks of run " + a.Run + " that have not started?"
	case a.Name == "prune":
		return "Make a plan of what to prune of mirror " + a.Mirror + "?"
	case a.Image != "":
		return "Retry the failed image " + clean(a.Image) + "?"
	case a.Repository != "":
		return "Retry the failed images of " + clean(a.Repository) + "?"
	}
	return "Retry all failed images of mirror " + a.Mirror + "?"
}

// Explanation is what follows.
func (a action) Explanation() string {
	switch a.Name {
	case "plan":
		return "The plan supersedes an older one that is unfinished. If that has the same list, it continues instead."
	case "cancel":
		return "A worker may finish a chunk that it has already. Republished images become failures again."
	case "prune":
		return "Nothing is deleted. The plan is to be read and confirmed, and takes the place of the last one."
	}
	if a.Image != "" {
		return "It is delivered to the workers at once, as a new run. If it fails again, it is kept again. Other failures stay as they are."
	}
	return "They are delivered to the workers at once, as a new run. Those that fail again are kept again."
}

// Button is the word on the button that does it.
func (a action) Button() string {
	return map[string]string{"plan": "Plan now", "cancel": "Cancel run", "republish": "Republish", "prune": "Make a plan"}[a.Name]
}

// Back leads to the page that the action is offered on.
func (a action) Back() string { return a.back }

func (a action) do(ctx context.Context, site *Site, user string) (string, error) {
	switch a.Name {
	case "plan":
		return site.Actions.Plan(ctx)
	case "cancel":
		return site.Actions.Cancel(ctx, a.Mirror, a.Run)
	case "prune":
		return site.Pruning.Survey(ctx, a.Terms, user)
	case "execute":
		return site.Pruning.Execute(ctx, a.Plan, a.Tags, user)
	}
	return site.Actions.Republish(ctx, a.Mirror, Republish{Repository: a.Repository, Image: a.Image})
}

// confirm asks before an action: a link does nothing.
func (*Server) confirm(site *Site, r *http.Request) (view, error) {
	a, err := parseAction(site, r.PathValue("action"), r.URL.Query())
	if err == nil && a.Name == "execute" { // the page of the plan asks
		err = errNotOffered
	}
	if err != nil {
		return view{}, err
	}
	o, err := site.Overview.Now(r.Context())
	if err != nil {
		return view{}, err
	}
	return viewOf(o, a.Mirror, view{Template: "confirm", Title: a.Button(), Data: a})
}

// act does what was confirmed. An action that has begun is not ended by a client that goes.
func (s *Server) act(w http.ResponseWriter, r *http.Request) {
	site := s.site.Load()
	if site == nil {
		s.failed(w, r, errNotReady)
		return
	}
	if s.config.ReadOnly {
		s.failed(w, r, errReadOnly)
		return
	}
	if err := r.ParseForm(); err != nil {
		s.failed(w, r, fmt.Errorf("%w: %w", errBadRequest, err))
		return
	}
	a, err := parseAction(site, r.PathValue("action"), r.PostForm)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	done, err := s.do(r, site, a)
	if isConflict(err) {
		s.show(w, r, http.StatusConflict, view{Template: "error", Title: "409 " + http.StatusText(http.StatusConflict), Text: sentence(err), Data: a.back})
		return
	}
	if err != nil {
		done = sentence(err)
	}
	query := url.Values{"note": {s.notes.put(done, err != nil)}}
	if a.Mirror != site.Mirror {
		query.Set("mirror", a.Mirror)
	}
	back := a.back
	if errors.Is(err, run.ErrNotFound) {
		back = "/runs"
	}
	http.Redirect(w, r, back+"?"+query.Encode(), http.StatusSeeOther)
}

// isConflict reports whether what a user has confirmed is not as the user has seen it.
func isConflict(err error) bool {
	return errors.Is(err, prune.ErrStale) || errors.Is(err, prune.ErrCap)
}

// do does what a user has confirmed, or a script has asked for, and logs it.
func (s *Server) do(r *http.Request, site *Site, a action) (string, error) {
	audit := s.log.With("action", a.Name, "mirror", a.Mirror, "repository", a.Repository, "image", a.Image, "run", a.Run, "user", userOf(r), "address", r.RemoteAddr)
	if a.Plan != "" {
		audit = audit.With("plan", a.Plan, "tags", a.Tags)
	}
	audit.Info("audit: action")
	done, err := a.do(context.WithoutCancel(r.Context()), site, userOf(r))
	if err != nil {
		audit.Warn("audit: action failed", "error", err)
	} else {
		audit.Info("audit: action done", "outcome", done)
	}
	return done, err
}
