package web

import (
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/redact"
)

// errBadRequest is returned for an invalid request.
var errBadRequest = errors.New("bad request")

// view is the data of a page.
type view struct {
	Template string
	Status   int // HTTP status; 0: 200
	Title    string
	Text     string
	Live     bool // the page reloads itself
	Mirror   string
	Mirrors  []string // all mirrors
	Failed   int      // failed images of the mirror
	Data     any

	// complete sets the other fields.
	Path     string
	Query    url.Values
	User     string
	LogOut   bool
	ReadOnly bool
	Version  string
	Note     *note
	Own      string // the mirror that this process plans
	At       time.Time
}

func (s *Server) complete(v *view, r *http.Request) {
	v.Path, v.Query, v.User, v.Version, v.ReadOnly = r.URL.Path, r.URL.Query(), userOf(r), s.version, s.config.ReadOnly
	v.LogOut = s.config.PasswordFile != "" && v.User != ""
	v.At = time.Now()
	if site := s.site.Load(); site != nil {
		v.Own = site.Mirror
	}
	if v.User != "" {
		if n, ok := s.notes.Get(v.Query.Get("note")); ok {
			v.Note = &n
		}
	}
	if v.Template == "error" && v.User != "" {
		v.Mirror = v.Own // for the navigation
	}
	if v.User == anonymous {
		v.User = ""
	}
}

// Link returns the link to a path for the same mirror, with the given names and values as query.
func (v view) Link(path string, pairs ...string) string {
	return place{path, pairs}.link(v.Own, v.Mirror)
}

// PageLink returns the link to another part of the same list.
func (v view) PageLink(page int) string {
	query := maps.Clone(v.Query)
	query.Del("note")
	query.Set("page", strconv.Itoa(page))
	return v.Path + "?" + query.Encode()
}

// Alike returns the path of the same page of other mirrors. A run belongs to one mirror.
func (v view) Alike() string {
	if v.Section("/runs") {
		return "/runs"
	}
	return v.Path
}

// Section reports whether the page is at the path or below it.
func (v view) Section(path string) bool {
	return v.Path == path || path != "/" && strings.HasPrefix(v.Path, path+"/")
}

var pages = []string{"now", "failures", "runs", "run", "images", "repository", "waiting", "pruning", "confirm", "login", "error"}

func (s *Server) parseTemplates() {
	s.templates = map[string]*template.Template{}
	for _, page := range pages {
		s.templates[page] = template.Must(template.New(page).Funcs(s.functions()).ParseFS(files, "templates/layout.html", "templates/"+page+".html"))
	}
}

func (s *Server) functions() template.FuncMap {
	return template.FuncMap{
		"size": display.Size, "span": span, "count": count, "bar": bar, "spentbar": spentBar, "clean": clean, "short": short,
		"number": number, "path": func(a, b string) string { return a + url.PathEscape(b) },
		"value": s.value, "moment": s.moment, "ago": s.ago,
		"since": func(t, now time.Time) template.HTML { return s.timeElement(t, span(now.Sub(t))) },
	}
}

func (s *Server) zone() *time.Location {
	if site := s.site.Load(); site != nil && site.Zone != nil {
		return site.Zone
	}
	return time.Local
}

// pointed returns a time that is given as a value or a pointer. It reports false for a nil or zero
// time.
func pointed(t any) (time.Time, bool) {
	switch t := t.(type) {
	case time.Time:
		return t, !t.IsZero()
	case *time.Time:
		if t != nil {
			return *t, !t.IsZero()
		}
	}
	return time.Time{}, false
}

// moment formats a time in the zone of the site.
func (s *Server) moment(t any) template.HTML {
	at, ok := pointed(t)
	if !ok {
		return "–"
	}
	return s.timeElement(at, at.In(s.zone()).Format("2006-01-02 15:04 MST"))
}

// value returns a value for the page. A time is formatted, with its distance from now.
func (s *Server) value(v any) any {
	t, ok := pointed(v)
	if !ok {
		return v
	}
	return s.moment(t) + " (" + s.ago(t, time.Now()) + ")"
}

// ago formats a time relative to now.
func (s *Server) ago(t any, now time.Time) template.HTML {
	at, ok := pointed(t)
	switch {
	case !ok:
		return "–"
	case at.After(now):
		return s.timeElement(at, "in "+span(at.Sub(now)))
	case now.Sub(at) < time.Second:
		return s.timeElement(at, "now")
	}
	return s.timeElement(at, span(now.Sub(at))+" ago")
}

func (s *Server) timeElement(t time.Time, text string) template.HTML {
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s">%s</time>`, //nolint:gosec // made of times only
		t.UTC().Format(time.RFC3339), template.HTMLEscapeString(t.In(s.zone()).Format("2006-01-02 15:04:05 MST")), text))
}

// span formats a duration in its two largest units.
func span(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	units := []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}}
	for i, u := range units {
		if d < u.length {
			continue
		}
		text := fmt.Sprintf("%d %s", d/u.length, u.name)
		if i+1 < len(units) {
			if rest := d % u.length / units[i+1].length; rest > 0 {
				text += fmt.Sprintf(" %d %s", rest, units[i+1].name)
			}
		}
		return text
	}
	return "0 s"
}

// number formats a number with thin spaces between thousands.
func number(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

// short returns the beginning of a digest, as people compare it.
func short(digest string) string {
	algorithm, hex, ok := strings.Cut(digest, ":")
	if !ok || len(hex) <= 12 {
		return digest
	}
	return algorithm + ":" + hex[:12]
}

// clean replaces characters of outside text that a reader cannot see, such as those that change the
// direction of writing. It also removes secrets.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) && r != '\n' {
			return unicode.ReplacementChar
		}
		return r
	}, redact.Text(text))
}

// sentence formats an error as a sentence.
func sentence(err error) string {
	text := clean(err.Error())
	first, width := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + strings.TrimSuffix(text[width:], ".") + "."
}
