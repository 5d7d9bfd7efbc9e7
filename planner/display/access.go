package display

import (
	"io"

	"github.com/osism/skopeo-worker/worker/check"
)

// Access shows which registries let us do what a run needs, and why the others do not.
func Access(w io.Writer, rows []check.Access) {
	var p page
	defer p.to(w)
	for _, a := range rows {
		what := a.Registry + " (source): "
		can := "answers, and accepts the credentials"
		if a.Destination {
			what = a.Registry + " (destination): "
			can = "permits pushing to " + a.Repository.String()
		}
		if a.Reason != "" {
			p.line("FAILED: %s", printable(what+a.Reason))
			continue
		}
		p.line("%s", printable(what+can))
	}
}
