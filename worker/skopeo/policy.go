package skopeo

import (
	"context"
	"errors"
	"os/exec"
	"regexp"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/worker/policy"
)

// noPolicy is what skopeo says where it finds none, up to 1.23 and since.
var noPolicy = regexp.MustCompile(`loading trust policy: (?:open .*: no such file or directory|.*no policy\.json file found)`)

// policyArguments makes one policy hold for every version of skopeo: the first one that
// any version finds, in the order of the newest. skopeo refuses to work without a policy,
// so that everything is accepted where there is none at all.
func (r *Runner) policyArguments(ctx context.Context) ([]string, error) {
	if path := policy.Find(r.root); path != "" {
		return []string{"--policy", path}, nil
	}
	none, err := r.findsNoPolicy(ctx)
	if err != nil || !none {
		return nil, err
	}
	return []string{"--insecure-policy"}, nil
}

// asked is whether a skopeo found no policy of its own.
type asked struct {
	mu          sync.Mutex
	known, none bool
}

// findsNoPolicy asks skopeo, which may have been built to look elsewhere. It is asked
// once: it takes as long as a small copy.
func (r *Runner) findsNoPolicy(ctx context.Context) (bool, error) {
	r.policy.mu.Lock()
	defer r.policy.mu.Unlock()
	if r.policy.known {
		return r.policy.none, nil
	}
	// It reads the policy first. What it is told to copy cannot be, and is nowhere.
	const nowhere = "dir:/dev/null/nowhere"
	command := exec.CommandContext(ctx, r.path(), "copy", nowhere, nowhere)
	command.WaitDelay = time.Second // what a wrapper leaves behind may hold the pipe
	said, err := command.CombinedOutput()
	var failed *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil && !errors.As(err, &failed):
		return false, r.explain(err)
	}
	r.policy.known, r.policy.none = true, noPolicy.Match(said)
	return r.policy.none, nil
}
