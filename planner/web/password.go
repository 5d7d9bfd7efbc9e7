package web

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/crypto/bcrypt"
)

const (
	// maxPasswordFile is far more than the users of one page need, in bytes.
	maxPasswordFile = 1 << 20
	// maxUser is the longest name of a user, in bytes.
	maxUser = 128
	// maxPassword is what bcrypt takes, in bytes.
	maxPassword = 72
	// maxCost keeps a login below a second or two.
	maxCost = 14
)

// users are bcrypt hashes by the names of users.
type users map[string][]byte

// readUsers reads a file as htpasswd -B writes it.
func readUsers(path string) (users, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxPasswordFile {
		return nil, fmt.Errorf("%s: more than %d bytes", path, maxPasswordFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseUsers(path, data)
}

func parseUsers(path string, data []byte) (users, error) {
	all := users{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, found := strings.Cut(line, ":")
		cost, err := bcrypt.Cost([]byte(hash))
		switch {
		case !found || !validUser(name):
			return nil, fmt.Errorf("%s:%d: no user", path, number)
		case err != nil:
			return nil, fmt.Errorf("%s:%d: the hash of %s is not bcrypt", path, number, name)
		case cost > maxCost:
			return nil, fmt.Errorf("%s:%d: the hash of %s has cost %d; at most %d", path, number, name, cost, maxCost)
		case all[name] != nil:
			return nil, fmt.Errorf("%s:%d: %s is there twice", path, number, name)
		}
		all[name] = []byte(hash)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no users", path)
	}
	return all, nil
}

// validUser reports whether s can be the name of a user in the log and on the page.
func validUser(s string) bool {
	return s != "" && len(s) <= maxUser && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == ':' || r == unicode.ReplacementChar }) < 0
}

// passwords are those of a file, which may change at any time.
type passwords struct {
	path string

	mu      sync.Mutex
	users   users
	changed time.Time // of the file that users are from
	size    int64
	proven  map[[sha256.Size]byte]time.Time // users with their hashes and passwords, until when
}

// provenFor is how long a password counts as right without another bcrypt, which scripts
// that send it with every request would wait for each time.
const provenFor = time.Minute

// maxProven bounds the passwords that are remembered.
const maxProven = 1000

// unknown is a hash of the cost that htpasswd and bcrypt use most, so that an unknown user
// takes as long as a wrong password.
var unknown = sync.OnceValue(func() []byte {
	hash, err := bcrypt.GenerateFromPassword([]byte("unknown"), bcrypt.DefaultCost)
	if err != nil {
		panic(err)
	}
	return hash
})

// hash returns the hash of a user as it stands in the file now; nil if there is none.
func (p *passwords) hash(user string) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	info, err := os.Stat(p.path)
	if err != nil {
		return nil
	}
	if !info.ModTime().Equal(p.changed) || info.Size() != p.size {
		read, err := readUsers(p.path)
		if err != nil { // it is being written
			return nil
		}
		p.users, p.changed, p.size = read, info.ModTime(), info.Size()
	}
	return p.users[user]
}

// errWrong is returned for an unknown user and for a wrong password alike.
var errWrong = errors.New("wrong user or password")

// known reports whether the password of the user was right a moment ago, and still is.
func (p *passwords) known(user, password string) bool {
	hash := p.hash(user)
	p.mu.Lock()
	defer p.mu.Unlock()
	return hash != nil && time.Now().Before(p.proven[proof(user, hash, password)])
}

func proof(user string, hash []byte, password string) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%q %q %q", user, hash, password))
}

// check returns errWrong unless the password is the user's.
func (p *passwords) check(user, password string) error {
	hash := p.hash(user)
	known := hash != nil && len(password) <= maxPassword
	if !known {
		hash = unknown()
	}
	err := bcrypt.CompareHashAndPassword(hash, []byte(password[:min(len(password), maxPassword)]))
	if err != nil || !known {
		return errWrong
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proven == nil || len(p.proven) >= maxProven {
		p.proven = map[[sha256.Size]byte]time.Time{}
	}
	p.proven[proof(user, hash, password)] = time.Now().Add(provenFor)
	return nil
}
