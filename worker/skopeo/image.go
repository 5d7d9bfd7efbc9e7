package skopeo

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/verify"
)

// ReadsItself reports whether the images of a source need CopyManifest, in which skopeo reads the
// source itself: if skopeo verifies signatures, or if registries.conf(5) names other locations for
// these images. It also returns true if a file with these settings cannot be read: skopeo's error
// then names the file.
func (r *Runner) ReadsItself(ctx context.Context, source reference.Repository) bool {
	if settings, err := containers.SettingsOf(source.String()); err != nil || settings.Elsewhere {
		return true
	}
	if policy.Find(r.root) == "" { // skopeo may have been built with another path
		none, err := r.findsNoPolicy(ctx)
		return err != nil || !none
	}
	asks, err := verify.Asks(ctx, r.root, source)
	return asks || err != nil
}

// errNoManifest is returned if skopeo exits with 0 and has not put the manifest.
var errNoManifest = errors.New("skopeo exited without an error, but has not put the manifest")

// Turn waits until fewer than AtOnce callers have a turn. A turn is for one call of CopyImage, and ends
// when the caller calls end.
func (r *Runner) Turn(ctx context.Context) (end func(), err error) {
	if r.AtOnce <= 0 {
		return func() {}, nil
	}
	r.once.Do(func() { r.turns = make(chan struct{}, r.AtOnce) })
	select {
	case r.turns <- struct{}{}:
		return func() { <-r.turns }, nil
	case <-ctx.Done():
		return nil, interrupted(ctx)
	}
}

// CopyImage copies the blobs of an image whose manifest was pulled. skopeo sends its requests to
// this process, which sends them to the registries. CopyImage returns the error of the first request
// that failed. If it returns nil, the destination has the blobs, and the manifest can be put.
func (r *Runner) CopyImage(ctx context.Context, image Image) error {
	policy, err := r.policyArguments(ctx)
	if err != nil {
		return failedToStart(ctx, err)
	}
	serving, end, err := r.server.serve(ctx, image)
	if err != nil {
		return err
	}
	defer end()
	c := &copying{serving: serving, environment: forgetful()}
	c.arguments = append([]string{"--debug"}, policy...)
	conf, err := c.file("--registries-conf=", serving.conf())
	if err != nil {
		return failedToStart(ctx, err)
	}
	defer conf()
	c.arguments = append(c.arguments, "copy", "--preserve-digests", "--remove-signatures")
	login, err := c.login("--authfile=", serving.host, containers.Credential{Username: user, Password: serving.secret})
	if err != nil {
		return failedToStart(ctx, err)
	}
	defer login()
	digest := "@" + image.Manifest.Digest.String()
	c.arguments = append(c.arguments, "docker://"+image.Source.String()+digest, "docker://"+serving.host+"/"+toRepository+digest)
	err = r.run(ctx, c)
	if err == nil && !serving.isPut() {
		err = &Error{Reason: errNoManifest.Error(), Err: errNoManifest}
	}
	return err
}

// conf returns the registries.conf(5) of the process. It replaces the main file, and its entry for
// exactly this source takes precedence over those of registries.conf.d. It redirects the source's
// own name, so that the command line has that name: skopeo looks it up in the signature policy.
func (i *serving) conf() []byte {
	return fmt.Appendf(nil, "credential-helpers = [%q]\n[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n[[registry]]\nlocation = %q\ninsecure = true\n",
		containers.Files, i.Source, i.host+"/"+fromRepository, i.host)
}

func (i *serving) isPut() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.put
}

// forgetful returns variables with which skopeo keeps its blob cache in memory. A cache file would be
// of no use, because the server decides from which repository to mount a blob, and it is slow: the
// processes lock it in turn and sync it for each blob. skopeo puts the file below XDG_DATA_HOME, or,
// for root, in a fixed folder; _CONTAINERS_ROOTLESS_UID makes it treat root as another user
// (pkg/blobinfocache and internal/rootless of containers/image).
func forgetful() []string {
	variables := []string{"XDG_DATA_HOME=" + os.DevNull}
	if os.Geteuid() == 0 {
		variables = append(variables, "_CONTAINERS_ROOTLESS_UID=65534") // the user "nobody"
	}
	return variables
}
