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

// ReadsItself reports whether skopeo has to copy the images of a source itself, by CopyManifest: it
// verifies signatures, or registries.conf(5) names other places for these images. It is also true
// if a file that says so cannot be read: skopeo's error then names the file.
func (r *Runner) ReadsItself(ctx context.Context, source reference.Repository) bool {
	if settings, err := containers.SettingsOf(source.String()); err != nil || settings.Elsewhere {
		return true
	}
	if policy.Find(r.root) == "" { // skopeo may have a policy of its own
		none, err := r.findsNoPolicy(ctx)
		return err != nil || !none
	}
	asks, err := verify.Asks(ctx, r.root, source)
	return asks || err != nil
}

// errNoManifest is returned if skopeo ended well and has not put the manifest.
var errNoManifest = errors.New("skopeo has not put the manifest")

// CopyImage copies the blobs of an image that was pulled. It is CopyManifest through this process:
// skopeo sends no request to a registry, and CopyImage returns the error of the first that failed.
// If it returns none, the destination has the blobs, and the manifest can be put.
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
// just this source outweighs the others of registries.conf.d. It has the source's own name on the
// command line, because the signature policy is asked about that.
func (i *serving) conf() []byte {
	return fmt.Appendf(nil, "credential-helpers = [%q]\n[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n[[registry]]\nlocation = %q\ninsecure = true\n",
		containers.Files, i.Source, i.host+"/"+fromRepository, i.host)
}

func (i *serving) isPut() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.put
}

// forgetful returns variables with which skopeo keeps its blob cache in memory. The file of the cache
// would remember the server, which knows itself where blobs are, and costs the processes much time:
// one after the other, they sync it for each blob. The cache is in a folder below XDG_DATA_HOME, but
// that of root, which skopeo recognises by another variable
// (pkg/blobinfocache and internal/rootless of containers/image).
func forgetful() []string {
	variables := []string{"XDG_DATA_HOME=" + os.DevNull}
	if os.Geteuid() == 0 {
		variables = append(variables, "_CONTAINERS_ROOTLESS_UID=65534") // nobody's
	}
	return variables
}
