package redact

import (
	"encoding/base64"
	"slices"
	"strings"
	"sync"
)

const (
	// minLength is the length in bytes of the shortest secret. Shorter texts are in too many
	// words.
	minLength = 4

	// wordLength is the length in bytes from which a secret is also found inside words and in
	// base64. A shorter one is found only as a whole word.
	wordLength = 6

	// maxNeedle is how many bytes of a secret are compared. A longer secret is a token or a key
	// in base64; it ends at the first character that is not in its alphabet.
	maxNeedle = 512

	// maxRecent is how many secrets of AddRecent are known. It is more than a client keeps
	// tokens. Each takes some 3 KiB of memory.
	maxRecent = 1024
)

// known are the secrets of this process. All its parts share them.
var known = newSecrets()

// Add adds secrets, such as those that the process was started with, until the process ends.
func Add(secrets ...string) {
	for _, secret := range secrets {
		known.add(secret, false)
	}
}

// AddLogin is Add for a password. If the password is too short to be found in base64, AddLogin also adds
// the base64 of the login, as in an Authorization header.
func AddLogin(user, password string) { Add(login(user, password)...) }

// AddRecentLogin is AddLogin for a password that may change.
func AddRecentLogin(user, password string) { AddRecent(login(user, password)...) }

func login(user, password string) []string {
	if password == "" || len(password) >= wordLength {
		return []string{password}
	}
	pair := []byte(user + ":" + password)
	return []string{password, base64.RawStdEncoding.EncodeToString(pair), base64.RawURLEncoding.EncodeToString(pair)}
}

// AddRecent adds secrets that change, such as tokens and the passwords in files. Only the last 1,024 of
// them are known.
func AddRecent(secrets ...string) {
	for _, secret := range secrets {
		known.add(secret, true)
	}
}

// secrets finds many secrets in a text in one pass.
type secrets struct {
	mu     sync.RWMutex
	kept   map[string]bool // the value is true for recent ones
	recent []string        // the oldest first

	needles map[key][]needle
	users   map[needle]int // number of secrets with this needle
}

// key is the beginning of needles.
type key [minLength]byte

func newSecrets() *secrets {
	return &secrets{kept: make(map[string]bool), needles: make(map[key][]needle), users: make(map[needle]int)}
}

func (s *secrets) add(secret string, recent bool) {
	if len(secret) < minLength {
		return
	}
	secret = secret[:min(len(secret), maxNeedle)]
	s.mu.RLock()
	_, have := s.kept[secret]
	s.mu.RUnlock()
	if have {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, have := s.kept[secret]; have {
		return
	}
	s.kept[secret] = recent
	for _, n := range needlesOf(secret) {
		if s.users[n]++; s.users[n] == 1 {
			k := key([]byte(n.text[:minLength]))
			s.needles[k] = append(s.needles[k], n)
		}
	}
	if !recent {
		return
	}
	s.recent = append(s.recent, secret)
	if len(s.recent) > maxRecent {
		s.forget(s.recent[0])
		s.recent = slices.Delete(s.recent, 0, 1)
	}
}

func (s *secrets) forget(secret string) {
	delete(s.kept, secret)
	for _, n := range needlesOf(secret) {
		if s.users[n]--; s.users[n] > 0 {
			continue
		}
		delete(s.users, n)
		k := key([]byte(n.text[:minLength]))
		s.needles[k] = slices.DeleteFunc(s.needles[k], func(other needle) bool { return other == n })
		if len(s.needles[k]) == 0 {
			delete(s.needles, k)
		}
	}
}

// mask replaces the secrets in a text.
func (s *secrets) mask(text string) string {
	var masked strings.Builder
	done := 0 // end of the part of text that is in masked
	for _, found := range s.find(text) {
		masked.WriteString(text[done:found.start])
		masked.WriteString(mask)
		done = found.end
	}
	masked.WriteString(text[done:])
	return masked.String()
}

// span is a part of a text.
type span struct{ start, end int }

// find returns the places of the secrets, in order. It joins places that overlap or touch.
func (s *secrets) find(text string) (all []span) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.needles) == 0 {
		return nil
	}
	for i := 0; i+minLength <= len(text); i++ {
		found, ok := s.at(text, i)
		if !ok {
			continue
		}
		for len(all) > 0 && all[len(all)-1].end >= found.start {
			last := all[len(all)-1]
			all = all[:len(all)-1]
			found = span{min(last.start, found.start), max(last.end, found.end)}
		}
		all = append(all, found)
	}
	return all
}

// at finds the longest secret that begins at i.
func (s *secrets) at(text string, i int) (found span, ok bool) {
	found = span{i, i}
	for _, n := range s.needles[key([]byte(text[i:i+minLength]))] {
		if here, is := n.in(text, i); is {
			found, ok = span{min(found.start, here.start), max(found.end, here.end)}, true
		}
	}
	return found, ok
}
