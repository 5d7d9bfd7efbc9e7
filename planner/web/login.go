package web

import (
	"errors"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// forUsers passes on requests of users, and sends other clients to the login.
func (s *Server) forUsers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, ok := s.access.user(r)
		if !ok && r.Header.Get("Authorization") != "" {
			var err error
			if user, err = s.access.basic(r); err != nil {
				s.refuse(w, r, user, err)
				return
			}
			ok = true
		}
		switch {
		case ok:
			next.ServeHTTP(w, withUser(r, user))
		case s.config.TrustProxy != "":
			s.fail(w, r, http.StatusForbidden, "The proxy has not named a user in the header "+s.config.TrustProxy+".")
		case r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html"):
			http.Redirect(w, r, "/login?to="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
		default:
			s.refuse(w, r, "", errWrong)
		}
	})
}

// refuse answers a script that has not authenticated.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, user string, err error) {
	status := s.refused(w, r, user, err)
	if status == http.StatusUnauthorized && s.config.PasswordFile != "" {
		w.Header().Set("WWW-Authenticate", `Basic realm="skopeo-worker", charset="UTF-8"`)
	}
	http.Error(w, err.Error(), status)
}

// refused logs a wrong password, and returns the status of the answer.
func (s *Server) refused(w http.ResponseWriter, r *http.Request, user string, err error) int {
	if !validUser(user) {
		user = ""
	}
	if wait := (*tooManyError)(nil); errors.As(err, &wait) {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.wait.Seconds()))))
		s.log.Debug("a password was not checked", "user", user, "address", r.RemoteAddr, "error", err)
		return http.StatusTooManyRequests
	}
	if user != "" {
		s.log.Warn("audit: login refused", "user", user, "address", r.RemoteAddr)
	}
	return http.StatusUnauthorized
}

func (s *Server) loginPage(w http.ResponseWriter, r *http.Request) {
	to := local(r.URL.Query().Get("to"))
	if _, ok := s.access.user(r); ok {
		http.Redirect(w, r, to, http.StatusSeeOther)
		return
	}
	s.show(w, r, view{Template: "login", Title: "Log in", Data: loginView{To: to}})
}

type loginView struct{ To, User, Problem string }

func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	if s.config.PasswordFile == "" {
		s.fail(w, r, http.StatusNotFound, "There is no such page.")
		return
	}
	user, password, to := r.PostFormValue("user"), r.PostFormValue("password"), local(r.PostFormValue("to"))
	if err := s.access.try(r, user, password); err != nil {
		status := s.refused(w, r, user, err)
		s.show(w, r, view{Template: "login", Status: status, Title: "Log in", Data: loginView{To: to, User: user, Problem: sentence(err)}})
		return
	}
	s.access.logIn(w, user)
	s.log.Info("audit: login", "user", user, "address", r.RemoteAddr)
	http.Redirect(w, r, to, http.StatusSeeOther)
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	s.access.logOut(w, r)
	s.log.Info("audit: logout", "user", userOf(r), "address", r.RemoteAddr)
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}
