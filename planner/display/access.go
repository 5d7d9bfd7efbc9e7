package display

import (
	"io"

	"github.com/osism/skopeo-worker/worker/check"
)

// Access shows which registries a run can use, and the reasons why it cannot use the others.
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
