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

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/crypto/bcrypt"
)

const (
	// maxPasswordFile, maxUser and maxPassword are in bytes. bcrypt takes 72 bytes of a password.
	maxPasswordFile = 1 << 20
	maxUser         = 128
	maxPassword     = 72
	// maxCost keeps a login below a second or two.
	maxCost = 14
	// provenFor is how long a password that was right needs no further bcrypt. Scripts send it with
	// every request, and would wait for bcrypt each time.
	provenFor = time.Minute
	// maxProven is how many of these passwords are remembered.
	maxProven = 1000
)

// readUsers reads a file in the format of htpasswd -B. It returns the bcrypt hashes by user.
func readUsers(path string) (map[string][]byte, error) {
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

func parseUsers(path string, data []byte) (map[string][]byte, error) {
	all := map[string][]byte{}
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
			return nil, fmt.Errorf("%s:%d: expected user:hash", path, number)
		case err != nil:
			return nil, fmt.Errorf("%s:%d: the hash of %s is not bcrypt", path, number, name)
		case cost > maxCost:
			return nil, fmt.Errorf("%s:%d: the hash of %s has cost %d; at most %d", path, number, name, cost, maxCost)
		case all[name] != nil:
			return nil, fmt.Errorf("%s:%d: %s is listed twice", path, number, name)
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

// validUser reports whether s is a user name that the log and the page can show.
func validUser(s string) bool {
	return s != "" && len(s) <= maxUser && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == ':' || r == unicode.ReplacementChar }) < 0
}

// passwords are the users of a file, which may change at any time.
type passwords struct {
	path   string
	proven *lru.Cache[[sha256.Size]byte, time.Time] // until when a user's hash and password need no bcrypt

	mu      sync.Mutex
	users   map[string][]byte
	changed time.Time // modification time of the file that users were read from
	size    int64     // of that file
}

// unknown is a hash with the usual cost. It is compared if the user is unknown, so that the answer
// takes as long as for a wrong password.
var unknown = sync.OnceValue(func() []byte {
	hash, err := bcrypt.GenerateFromPassword([]byte("unknown"), bcrypt.DefaultCost)
	if err != nil {
		panic(err)
	}
	return hash
})

// hash returns the current hash of a user, or nil if the file has no such user.
func (p *passwords) hash(user string) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	info, err := os.Stat(p.path)
	if err != nil {
		return nil
	}
	if !info.ModTime().Equal(p.changed) || info.Size() != p.size {
		read, err := readUsers(p.path)
		if err != nil { // the file may be half written
			return nil
		}
		p.users, p.changed, p.size = read, info.ModTime(), info.Size()
	}
	return p.users[user]
}

// errWrong is returned both for an unknown user and for a wrong password.
var errWrong = errors.New("wrong user or password")

// known reports whether the password is the user's and was checked less than provenFor ago.
func (p *passwords) known(user, password string) bool {
	hash := p.hash(user)
	until, ok := p.proven.Get(proof(user, hash, password))
	return hash != nil && ok && time.Now().Before(until)
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
	p.proven.Add(proof(user, hash, password), time.Now().Add(provenFor))
	return nil
}
