package web

import (
	"context"
	"crypto/rand"
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

// action is something that a user can do on the page. The parse functions of the kinds make it from
// valid input only.
type action struct {
	// Question is what a user confirms, Explanation describes the effects, and Button labels the
	// button that starts the action. An action without a question has no page of its own: another
	// page has its form.
	Question, Explanation, Button string
	// fields are the values that the form sends and the log records, besides the mirror.
	fields []field
	// back is the page that offers the action.
	back place
	// review optionally returns details to show above the button. It fails if the action is no
	// longer possible.
	review func(ctx context.Context, site *Site) ([]detail, error)
	// do carries the action out and returns a sentence about its result.
	do func(ctx context.Context, site *Site, user string) (string, error)
}

// field is a form field.
type field struct{ Name, Value string }

// detail is a term with its value, which may be a time.
type detail struct {
	Term  string
	Value any
}

// kind is a kind of action.
type kind struct {
	name  string
	terms map[string]term // fields of the body of an API request
	// parse returns the action for a mirror and the values of a form. It uses no broker.
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

// errNotOffered is returned for an action that does not exist.
var errNotOffered = fmt.Errorf("%w: there is no such action", errBadRequest)

// kindOf returns the kind with the name.
func kindOf(name string) (kind, error) {
	if i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name }); i >= 0 {
		return kinds[i], nil
	}
	return kind{}, errNotOffered
}

// request is an action on a mirror that a user or a script requests.
type request struct {
	action
	Name   string
	Mirror string
}

// requestOf parses a request for an action of the kind.
func (k kind) requestOf(site *Site, mirror string, given url.Values) (request, error) {
	if !subject.ValidName(mirror) {
		return request{}, errNotOffered
	}
	a, err := k.parse(site, mirror, given)
	return request{a, k.name, mirror}, err
}

// parseAction parses a request from a link or a form.
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

// Fields returns all fields of the form of the action.
func (q request) Fields() []field { return append([]field{{"mirror", q.Mirror}}, q.fields...) }

// confirmView is the page on which a user confirms an action.
type confirmView struct {
	request
	Details []detail
	Back    string
}

// confirm renders the page on which a user confirms an action. A link alone never starts one.
func confirm(site *Site, r *http.Request) (view, error) {
	q, err := parseAction(site, r.PathValue("action"), r.URL.Query())
	if err != nil {
		return view{}, err
	}
	if q.Question == "" {
		return view{}, errNotOffered
	}
	p, err := pageAbout(r.Context(), site, q.Mirror)
	if err != nil {
		return view{}, err
	}
	v := confirmView{request: q, Back: q.back.link(site.Mirror, q.Mirror)}
	if q.review != nil {
		v.Details, err = q.review(r.Context(), site)
	}
	if isConflict(err) {
		return errorView(http.StatusConflict, sentence(err), v.Back), nil
	}
	if err != nil {
		return view{}, err
	}
	return p.view(view{Template: "confirm", Title: q.Button, Data: v}), nil
}

// maxNotes is how many notes are kept.
const maxNotes = 100

// note is the result of an action, for the page that follows. The server keeps it: in the address of
// that page, a link from another site could put any text there.
type note struct {
	Text string
	Bad  bool
}

// act does what a user has confirmed. It continues if the client disconnects.
func (s *Server) act(w http.ResponseWriter, r *http.Request) {
	site, err := s.writable()
	if err == nil {
		if err = r.ParseForm(); err != nil {
			err = fmt.Errorf("%w: %w", errBadRequest, err)
		}
	}
	if err != nil {
		s.failed(w, r, err)
		return
	}
	q, err := parseAction(site, r.PathValue("action"), r.PostForm)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	done, err := s.do(r, site, q)
	if isConflict(err) {
		s.show(w, r, errorView(http.StatusConflict, sentence(err), q.back.link(site.Mirror, q.Mirror)))
		return
	}
	if err != nil {
		done = sentence(err)
	}
	if errors.Is(err, run.ErrNotFound) {
		q.back = place{path: "/runs"}
	}
	key := rand.Text()
	s.notes.Add(key, note{done, err != nil})
	http.Redirect(w, r, q.back.link(site.Mirror, q.Mirror, "note", key), http.StatusSeeOther)
}

// isConflict reports whether an action failed because its subject has changed since the user saw it.
func isConflict(err error) bool {
	return errors.Is(err, prune.ErrStale) || errors.Is(err, prune.ErrCap) || errors.Is(err, waiting.ErrNot)
}

// do carries out an action that a user has confirmed or a script requests, and logs it.
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
