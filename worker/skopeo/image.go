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

// Pulls returns how many manifests CopyManifest pulls for an image of the source if skopeo has to read
// the source itself: two if it may verify signatures, because Sigstore's have a manifest of their own,
// and one if registries.conf(5) names other locations for these images. Otherwise it returns 0. A file
// with these settings that cannot be read counts, too: skopeo's error then names the file.
func (r *Runner) Pulls(ctx context.Context, source reference.Repository) int {
	if r.verifies(ctx, source) {
		return 2
	}
	if settings, err := containers.SettingsOf(source.String()); err != nil || settings.Elsewhere {
		return 1
	}
	return 0
}

// verifies reports whether skopeo may verify signatures of images of the source.
func (r *Runner) verifies(ctx context.Context, source reference.Repository) bool {
	if policy.Find(r.root) == "" { // skopeo may have been built with another path
		none, err := r.findsNoPolicy(ctx)
		return err != nil || !none
	}
	asks, err := verify.Asks(ctx, r.root, source)
	return asks || err != nil
}

// errNoManifest is returned if skopeo exits with 0 and has not put the manifest.
var errNoManifest = errors.New("skopeo exited without an error, but has not put the manifest")

// alone copies an image with a process of its own.
func (r *Runner) alone(ctx context.Context, image Image) error {
	serving := newServing(false)
	a, err := serving.add(ctx, image)
	if err != nil {
		return err
	}
	serving.beginImage(a)
	switch err := r.process(ctx, serving); {
	case err != nil:
		return err
	case !serving.isPut(a):
		return &Error{Reason: errNoManifest.Error(), Err: errNoManifest}
	}
	return serving.settle(a)
}

// process runs a process that copies the images, of which at least one is served, and then waits until
// the destination has what skopeo has sent.
func (r *Runner) process(ctx context.Context, serving *serving) error {
	end, err := r.server.serve(serving)
	if err != nil {
		return err
	}
	defer end()
	policy, err := r.policyArguments(ctx)
	if err != nil {
		return failedToStart(ctx, err)
	}
	source, name := serving.of()
	c := &copying{serving: serving, environment: forgetful(), arguments: policy}
	conf, err := c.file("--registries-conf=", serving.conf(source))
	if err != nil {
		return failedToStart(ctx, err)
	}
	defer conf()
	c.arguments = append(c.arguments, "copy", "--all", "--preserve-digests", "--remove-signatures")
	login, err := c.login("--authfile=", serving.host, containers.Credential{Username: user, Password: serving.secret})
	if err != nil {
		return failedToStart(ctx, err)
	}
	defer login()
	c.arguments = append(c.arguments, "docker://"+source.String()+name, "docker://"+serving.host+"/"+toRepository+name)
	defer serving.settleAll()
	return r.run(ctx, c)
}

// of returns the source, and what the process copies.
func (i *serving) of() (source reference.Repository, name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	first := i.images[0]
	if i.together {
		return first.Source, ":" + together
	}
	return first.Source, "@" + first.Manifest.Digest.String()
}

// conf returns the registries.conf(5) of the process. It replaces the main file, and its entry for
// exactly this source takes precedence over those of registries.conf.d. It redirects the source's
// own name, so that the command line has that name: skopeo looks it up in the signature policy.
func (i *serving) conf(source reference.Repository) []byte {
	return fmt.Appendf(nil, "credential-helpers = [%q]\n[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n[[registry]]\nlocation = %q\ninsecure = true\n",
		containers.Files, source, i.host+"/"+fromRepository, i.host)
}

// isPut reports whether the process has put the manifest of an image.
func (i *serving) isPut(a *served) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return a.put
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
