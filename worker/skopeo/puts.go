package skopeo

// received is a blob that skopeo has sent, before it states the digest: a small one is in memory, and
// another at the destination.
type received struct {
	small []byte
	large Upload
}

// putting is a small blob that this process sends to the destination while skopeo goes on.
type putting struct {
	of   *served // the image for which it is sent
	at   place
	done chan struct{} // closed when err is set
	err  error
}

// putLater sends a small blob to the destination, and returns at once.
func (i *serving) putLater(blob listed, content []byte) {
	p := &putting{of: blob.of, at: blob.at(), done: make(chan struct{})}
	i.mu.Lock()
	i.puts = append(i.puts, p)
	p.of.needs = append(p.of.needs, p)
	i.mu.Unlock()
	go func() {
		defer close(p.done)
		defer i.claims.work()()
		p.err = p.of.Put(p.of.ctx, blob.Descriptor, content)
		i.claims.release(p.at)
	}()
}

// sharesPut reports whether the process has sent a blob already, and makes the image wait for it, too.
func (i *serving) sharesPut(blob listed) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, p := range i.puts {
		if p.at == blob.at() {
			blob.of.needs = append(blob.of.needs, p)
			return true
		}
	}
	return false
}

// settle waits until the small blobs that an image needs were sent, and returns the first error. It is
// errLeft if the blob was sent for another image.
func (i *serving) settle(a *served) error {
	i.mu.Lock()
	needs := a.needs
	i.mu.Unlock()
	for _, p := range needs {
		if <-p.done; p.err != nil && p.of != a {
			return errLeft
		} else if p.err != nil {
			return p.err
		}
	}
	return nil
}

// settleEarly settles an image while the process copies others.
func (i *serving) settleEarly(a *served) {
	a.failed = i.settle(a)
	close(a.settled)
}

// settleAll waits until all small blobs were sent.
func (i *serving) settleAll() {
	i.mu.Lock()
	puts := i.puts
	i.mu.Unlock()
	for _, p := range puts {
		<-p.done
	}
}
