package web

import (
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/osism/skopeo-worker/shared/redact"
)

// errBadRequest is returned for a query that makes no sense.
var errBadRequest = errors.New("bad request")

// view is the data of a page.
type view struct {
	Template string
	Status   int // 0: 200
	Title    string
	Text     string
	Live     bool // changes by itself
	Mirror   string
	Mirrors  []string // to choose from
	Failed   int      // images of the mirror
	Data     any

	// Filled in by complete.
	Path     string
	User     string
	LogOut   bool
	ReadOnly bool
	Version  string
	Note     *note
	Own      string // the mirror that this process plans
	At       time.Time
}

func (s *Server) complete(v *view, r *http.Request) {
	v.Path, v.User, v.Version, v.ReadOnly = r.URL.Path, userOf(r), s.version, s.config.ReadOnly
	v.LogOut = s.config.PasswordFile != "" && v.User != ""
	v.At = time.Now()
	if site := s.site.Load(); site != nil {
		v.Own = site.Mirror
	}
	if v.User != "" {
		v.Note = s.notes.take(r.URL.Query().Get("note"))
	}
	if v.Template == "error" && v.User != "" {
		v.Mirror = v.Own // for the navigation
	}
	if v.User == anonymous {
		v.User = ""
	}
}

// Link is a path of the page for the same mirror, with more of a query.
func (v view) Link(path string, pairs ...string) string {
	return place{path, pairs}.link(v.Own, v.Mirror)
}

// Section reports whether the page is the one that the path of the navigation leads to,
// or below it.
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
		"size": size, "span": span, "count": count, "bar": bar, "spentbar": spentBar, "clean": clean, "short": short,
		"number": number, "path": func(a, b string) string { return a + url.PathEscape(b) }, "search": search, "filtered": state, "shown": shown,
		"value":  func(v any) any { return s.value(v) },
		"since":  func(t, now time.Time) template.HTML { return s.timeElement(t, span(now.Sub(t))) },
		"moment": func(t any) template.HTML { return s.moment(t) },
		"ago":    func(t any, now time.Time) template.HTML { return s.ago(t, now) },
	}
}

func (s *Server) zone() *time.Location {
	if site := s.site.Load(); site != nil && site.Zone != nil {
		return site.Zone
	}
	return time.Local
}

// pointed is a time that may be given as a pointer, and whether there is any.
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

// moment is a time as people read it.
func (s *Server) moment(t any) template.HTML {
	at, ok := pointed(t)
	if !ok {
		return "–"
	}
	return s.timeElement(at, at.In(s.zone()).Format("2006-01-02 15:04 MST"))
}

// value is a value as people read it. A time is followed by how far it is from now.
func (s *Server) value(v any) any {
	t, ok := pointed(v)
	if !ok {
		return v
	}
	return s.moment(t) + " (" + s.ago(t, time.Now()) + ")"
}

// ago is a time as seen from now.
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

// size is a number of bytes with an IEC prefix.
func size(bytes int64) string {
	const step = 1024
	if bytes < step {
		return fmt.Sprintf("%d B", max(bytes, 0))
	}
	value, prefixes := float64(bytes)/step, "KMGTPE"
	for value >= step-0.05 && len(prefixes) > 1 {
		value, prefixes = value/step, prefixes[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, prefixes[0])
}

// span is a duration in its two largest units.
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

// number is a number with thousands kept apart.
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

// short is a digest as people compare it.
func short(digest string) string {
	algorithm, hex, ok := strings.Cut(digest, ":")
	if !ok || len(hex) <= 12 {
		return digest
	}
	return algorithm + ":" + hex[:12]
}

// clean is text from outside without what a reader cannot see, such as characters that
// turn the direction of writing, and without secrets.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) && r != '\n' {
			return unicode.ReplacementChar
		}
		return r
	}, redact.Text(text))
}

// sentence is an error as a sentence.
func sentence(err error) string {
	text := clean(err.Error())
	first, width := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + strings.TrimSuffix(text[width:], ".") + "."
}

// state is what the list of a page was filtered by.
func state(v view) string {
	if list, ok := v.Data.(imagesView); ok {
		return list.State
	}
	return ""
}

// shown is which part of a plan a page shows.
func shown(v view) string {
	if plan, ok := v.Data.(pruningView); ok && plan.Stays {
		return "stays"
	}
	return ""
}

// search is what the list of a page was searched for.
func search(v view) string {
	if list, ok := v.Data.(interface{ Searched() string }); ok {
		return list.Searched()
	}
	return ""
}
