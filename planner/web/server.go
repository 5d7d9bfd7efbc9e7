// Package web serves the page of planner serve.
package web

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/net/netutil"

	"github.com/osism/skopeo-worker/planner/overview"
	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/release"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/prune"
)

const (
	// Limits for each client, so that slow clients do not keep others out.
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	writeTimeout   = time.Minute
	idleTimeout    = time.Minute
	maxHeader      = 16 << 10
	maxBody        = 64 << 10
	maxConnections = 512

	// closing is how long requests may take to finish when the process ends.
	closing = 5 * time.Second
)

//go:embed templates/*.html static/*
var files embed.FS

// Site is the data and the actions of the page. It is available once the broker is connected.
type Site struct {
	Mirror   string // the mirror that this process plans
	Overview *overview.Reader
	Failures *failure.Store
	Changes  *change.Store
	Catalog  *catalog.Store
	Releases *release.Store
	Actions  Actions
	Pruning  Pruning
	Prunes   *prune.Store
	Surveys  func() PruneSurvey // state of the prune plan that is being made
	Schedule func() Schedule
	Unsent   func() []string // notifications that could not be sent
	Zone     *time.Location  // of the times on the page
}

// Schedule states when this process plans its mirror.
type Schedule struct {
	Next  time.Time // zero: there is no schedule
	Tried time.Time // when it last planned; zero: not yet
	Error string    // of that attempt, if it failed
}

// Actions carries out the actions of the page. Each method returns a sentence about its result.
type Actions interface {
	Plan(ctx context.Context) (string, error)
	Republish(ctx context.Context, mirror string, w Republish) (string, error)
	Cancel(ctx context.Context, mirror, run string) (string, error)
}

// Republish selects the failures to retry: those of a repository, or that of an image, named as
// failure.Image.Source. If both are empty, it selects all.
type Republish struct {
	Repository, Image string
}

// Server serves the page.
type Server struct {
	config    Config
	version   string
	log       *slog.Logger
	access    *access
	listener  net.Listener
	http      http.Server
	site      atomic.Pointer[Site]
	templates map[string]*template.Template
	notes     *lru.Cache[string, note]
}

// Listen returns a server that listens, but answers only once Serve is called. Requests for metrics
// and probes go to the given handler.
func Listen(c Config, version string, probes http.Handler, log *slog.Logger) (*Server, error) {
	s := &Server{config: c, version: version, log: log, access: newAccess(c), notes: newCache[string, note](maxNotes)}
	s.parseTemplates()
	listener, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return nil, fmt.Errorf("UI_ADDR: %w", err)
	}
	s.listener = listener
	s.http = http.Server{
		Handler: s.handler(probes), ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	log.Info("serving the page", "url", "http://"+listener.Addr().String()+"/")
	return s, nil
}

// Show makes the server show the site. Before, it answers that the broker is not connected yet.
func (s *Server) Show(site *Site) { s.site.Store(site) }

// Serve answers requests until work returns. If the server fails, it cancels the context of work.
// The error is that of the server, of work, or of both.
func (s *Server) Serve(ctx context.Context, work func(context.Context) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	served := make(chan error, 1)
	go func() {
		err := s.http.Serve(netutil.LimitListener(s.listener, maxConnections))
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		} else {
			err = fmt.Errorf("serving UI_ADDR: %w", err)
		}
		stop(err)
		served <- err
	}()
	err := work(ctx)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	if s.http.Shutdown(end) != nil {
		_ = s.http.Close()
	}
	return errors.Join(err, <-served)
}

// handler returns the handler of all routes. Only the probes, the login page and the static files are
// open to clients that have not logged in.
func (s *Server) handler(probes http.Handler) http.Handler {
	static, err := fs.Sub(files, "static")
	if err != nil {
		panic(err)
	}
	open := http.NewServeMux()
	open.Handle("GET /healthz", probes)
	open.Handle("GET /readyz", probes)
	open.Handle("GET /static/", http.StripPrefix("/static/", http.FileServerFS(static)))
	open.HandleFunc("GET /login", s.loginPage)
	open.HandleFunc("POST /login", s.login)

	users := http.NewServeMux()
	users.Handle("GET /metrics", probes)
	users.HandleFunc("GET /{$}", s.page(now))
	users.HandleFunc("GET /failures", s.pageOf(failures))
	users.HandleFunc("GET /images", s.pageOf(images, checkState))
	users.HandleFunc("GET /images/waiting", s.pageOf(waitingTags))
	users.HandleFunc("GET /runs", s.pageOf(runs))
	users.HandleFunc("GET /runs/{run}", s.pageOf(runPage))
	users.HandleFunc("GET /pruning", s.pageOf(pruning))
	users.HandleFunc("GET /actions/{action}", s.page(confirm))
	users.HandleFunc("POST /actions/{action}", s.act)
	users.HandleFunc("POST /logout", s.logout)
	for pattern, handler := range s.apiRoutes() {
		users.HandleFunc(pattern, handler)
	}
	users.HandleFunc("/api/", func(w http.ResponseWriter, _ *http.Request) {
		sendJSON(w, http.StatusNotFound, apiError{"There is no such path; see /api/v1/openapi.yaml."})
	})
	users.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, http.StatusNotFound, "There is no such page.")
	})
	open.Handle("/", s.forUsers(users))

	crossOrigin := http.NewCrossOriginProtection()
	limited := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		open.ServeHTTP(w, r)
	})
	return withHeaders(s.config.checkHost(crossOrigin.Handler(limited)))
}

// headers are sent with every answer. They restrict the page to its own files, and forbid frames and
// caches.
var headers = map[string]string{
	"Content-Security-Policy":      "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
	"X-Frame-Options":              "DENY",
	"X-Content-Type-Options":       "nosniff",
	"Referrer-Policy":              "same-origin",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=()",
	"Cache-Control":                "no-store",
}

func withHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range headers {
			w.Header().Set(name, value)
		}
		next.ServeHTTP(w, r)
	})
}

var (
	// errNotReady is returned until the broker is connected.
	errNotReady = errors.New("the broker is not connected yet")
	// errReadOnly is returned for an action if UI_READ_ONLY is set.
	errReadOnly = errors.New("UI_READ_ONLY is set: actions are disabled")
)

// ready returns the site, or errNotReady.
func (s *Server) ready() (*Site, error) {
	if site := s.site.Load(); site != nil {
		return site, nil
	}
	return nil, errNotReady
}

// writable returns the site if actions are allowed.
func (s *Server) writable() (*Site, error) {
	site, err := s.ready()
	if err == nil && s.config.ReadOnly {
		err = errReadOnly
	}
	return site, err
}

// page serves the view that render returns.
func (s *Server) page(render func(*Site, *http.Request) (view, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		site, err := s.ready()
		var v view
		if err == nil {
			v, err = render(site, r)
		}
		if err != nil {
			s.failed(w, r, err)
			return
		}
		s.show(w, r, v)
	}
}

// check returns errBadRequest if a parameter in the query of a request is invalid. It uses no broker, so
// that a mistake gets the same answer while the broker is away.
type check func(*http.Request) error

// pageOf is page for the mirror that the query of the request names. The default is the one that this
// process plans. All of these pages have a list of several parts.
func (s *Server) pageOf(render func(*Site, mirrorPage, *http.Request) (view, error), checks ...check) http.HandlerFunc {
	return s.page(func(site *Site, r *http.Request) (view, error) {
		if err := checkAll(r, append(checks, checkPage)); err != nil {
			return view{}, err
		}
		p, err := pageAbout(r.Context(), site, cmp.Or(r.URL.Query().Get("mirror"), site.Mirror))
		if err != nil {
			return view{}, err
		}
		v, err := render(site, p, r)
		return p.view(v), err
	})
}

func checkAll(r *http.Request, checks []check) error {
	for _, c := range checks {
		if err := c(r); err != nil {
			return err
		}
	}
	return nil
}

// statusOf returns the status of the answer for an error. It reports false if the request did not
// cause the error, so that the error belongs in the log.
func statusOf(err error) (status int, known bool) {
	switch {
	case errors.Is(err, run.ErrNotFound), errors.Is(err, overview.ErrUnknown):
		return http.StatusNotFound, true
	case isConflict(err):
		return http.StatusConflict, true
	case errors.Is(err, errBadRequest), errors.Is(err, prune.ErrCount), errors.Is(err, ErrTerms):
		return http.StatusBadRequest, true
	case errors.Is(err, errReadOnly):
		return http.StatusForbidden, true
	case errors.Is(err, errNotReady), errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable, true
	}
	return http.StatusServiceUnavailable, false
}

// failed answers with an error.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, err error) {
	status, known := statusOf(err)
	if !known {
		s.log.Warn("a page cannot be shown", "path", r.URL.Path, "error", err)
	}
	s.fail(w, r, status, sentence(err))
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, status int, text string) {
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	s.show(w, r, errorView(status, text, ""))
}

// show renders the whole page before it sends anything.
func (s *Server) show(w http.ResponseWriter, r *http.Request, v view) {
	s.complete(&v, r)
	var page bytes.Buffer
	if err := s.templates[v.Template].ExecuteTemplate(&page, "layout", v); err != nil {
		s.log.Error("a page cannot be rendered", "path", r.URL.Path, "error", err)
		http.Error(w, "The page cannot be rendered; see the log.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(cmp.Or(v.Status, http.StatusOK))
	_, _ = page.WriteTo(w)
}
