package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/osism/skopeo-worker/planner/waiting"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/prune"
)

// action is something that the page offers to do, with all that it needs. Each one is a type of
// its own, which only the parse of its kind makes.
type action interface {
	// fields are what its form sends and the log has.
	fields() []field
	// back is the page that it is offered on.
	back() place
	do(ctx context.Context, site *Site, user string) (string, error)
}

// asking is an action that has a page on which a user confirms it.
type asking interface {
	// Question is what a user confirms, Explanation what follows, and Button the word on the
	// button that does it.
	Question() string
	Explanation() string
	Button() string
}

// reviewed is an action of which a user sees more before confirming it.
type reviewed interface {
	// review returns what to show. It returns an error if the action can't be done any more.
	review(ctx context.Context, site *Site) ([]detail, error)
}

// field is a name in a form with its value.
type field struct{ Name, Value string }

// detail is a term with a value, which may be a time.
type detail struct {
	Term  string
	Value any
}

// kind is a kind of action.
type kind struct {
	name  string
	terms map[string]term // what is given of it, besides the mirror
	// parse reads what is given. Names are held to what they may be before anything is asked of
	// the broker.
	parse func(site *Site, mirror string, given url.Values) (action, error)
}

var (
	planning     = kind{"plan", nil, parsePlan}
	republishing = kind{"republish", map[string]term{"repository": isText, "image": isText}, parseRepublish}
	cancelling   = kind{"cancel", nil, parseCancel} // the path has the run
	releasing    = kind{"release", map[string]term{"repository": isText, "tag": isText, "digest": isText}, parseRelease}
	surveying    = kind{"prune", map[string]term{"grace": isText, "max": isText, "max_per_repository": isText, "keep": isTexts, "left_list": isTruth}, parseSurvey}
	executing    = kind{"execute", map[string]term{"tags": isNumber}, parseExecute} // the path has the plan

	kinds = []kind{planning, republishing, cancelling, releasing, surveying, executing}
)

// errNotOffered is returned for an action that the page does not have.
var errNotOffered = fmt.Errorf("%w: there is no such action", errBadRequest)

// kindOf returns the kind with a name.
func kindOf(name string) (kind, error) {
	if i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name }); i >= 0 {
		return kinds[i], nil
	}
	return kind{}, errNotOffered
}

// request is an action that a user or a script has asked for.
type request struct {
	action
	Name   string
	Mirror string
}

// requestOf reads an action for a mirror.
func (k kind) requestOf(site *Site, mirror string, given url.Values) (request, error) {
	if !subject.ValidName(mirror) {
		return request{}, errNotOffered
	}
	a, err := k.parse(site, mirror, given)
	return request{a, k.name, mirror}, err
}

// parseAction reads an action from a link or a form.
func parseAction(site *Site, name string, given url.Values) (request, error) {
	k, err := kindOf(name)
	if err != nil {
		return request{}, err
	}
	mirror := given.Get("mirror")
	if mirror == "" {
		mirror = site.Mirror
	}
	return k.requestOf(site, mirror, given)
}

// Fields are what the form of the action sends.
func (q request) Fields() []field { return append([]field{{"mirror", q.Mirror}}, q.fields()...) }

// confirmView is the page on which a user confirms an action.
type confirmView struct {
	request
	asking
	Details []detail
	Back    string
}

// confirm asks before an action: a link does nothing.
func (*Server) confirm(site *Site, r *http.Request) (view, error) {
	q, err := parseAction(site, r.PathValue("action"), r.URL.Query())
	if err != nil {
		return view{}, err
	}
	asks, ok := q.action.(asking)
	if !ok {
		return view{}, errNotOffered
	}
	p, err := pageAbout(r.Context(), site, q.Mirror)
	if err != nil {
		return view{}, err
	}
	v := confirmView{request: q, asking: asks, Back: q.back().link(site.Mirror, q.Mirror)}
	if a, ok := q.action.(reviewed); ok {
		v.Details, err = a.review(r.Context(), site)
	}
	if isConflict(err) {
		return errorView(http.StatusConflict, sentence(err), v.Back), nil
	}
	if err != nil {
		return view{}, err
	}
	return p.view(view{Template: "confirm", Title: asks.Button(), Data: v})
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
	q, err := parseAction(site, r.PathValue("action"), r.PostForm)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	done, err := s.do(r, site, q)
	if isConflict(err) {
		s.show(w, r, errorView(http.StatusConflict, sentence(err), q.back().link(site.Mirror, q.Mirror)))
		return
	}
	if err != nil {
		done = sentence(err)
	}
	back := q.back()
	if errors.Is(err, run.ErrNotFound) {
		back = place{path: "/runs"}
	}
	http.Redirect(w, r, back.link(site.Mirror, q.Mirror, "note", s.notes.put(done, err != nil)), http.StatusSeeOther)
}

// isConflict reports whether what a user has confirmed is not as the user has seen it.
func isConflict(err error) bool {
	return errors.Is(err, prune.ErrStale) || errors.Is(err, prune.ErrCap) || errors.Is(err, waiting.ErrNot)
}

// do does what a user has confirmed, or a script has asked for, and logs it.
func (s *Server) do(r *http.Request, site *Site, q request) (string, error) {
	audit := s.log.With("action", q.Name)
	for _, f := range q.Fields() {
		audit = audit.With(f.Name, f.Value)
	}
	audit = audit.With("user", userOf(r), "address", r.RemoteAddr)
	audit.Info("audit: action")
	done, err := q.do(context.WithoutCancel(r.Context()), site, userOf(r))
	if err != nil {
		audit.Warn("audit: action failed", "error", err)
	} else {
		audit.Info("audit: action done", "outcome", done)
	}
	return done, err
}
