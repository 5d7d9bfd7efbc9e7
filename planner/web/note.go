package web

import (
	"crypto/rand"
	"sync"
	"time"
)

const (
	maxNotes = 100
	noteFor  = 10 * time.Minute
)

// note is what came of an action, for the page that follows it. It is kept here and not
// in the address of that page, so that no link of somebody else can put words there.
type note struct {
	Text string
	Bad  bool
	at   time.Time
}

type notes struct {
	mu  sync.Mutex
	all map[string]note
}

// put keeps a note and returns its key.
func (n *notes) put(text string, bad bool) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for key, old := range n.all {
		if now.Sub(old.at) > noteFor || len(n.all) >= maxNotes {
			delete(n.all, key)
		}
	}
	if n.all == nil {
		n.all = map[string]note{}
	}
	key := rand.Text()
	n.all[key] = note{text, bad, now}
	return key
}

// take returns a note; nil if there is none. It stays for a while, because a browser may
// load the page again.
func (n *notes) take(key string) *note {
	n.mu.Lock()
	defer n.mu.Unlock()
	if found, ok := n.all[key]; ok {
		return &found
	}
	return nil
}
