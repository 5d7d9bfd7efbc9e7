package display

import (
	"fmt"
	"time"

	"github.com/osism/skopeo-worker/shared/run"
)

// shownCopies is how many copies under way a page shows.
const shownCopies = 20

// underWay shows the images that are copied, those first that take longest.
func underWay(p *page, all []run.Copy, now time.Time) {
	if len(all) == 0 {
		return
	}
	p.line("")
	var rows [][]string
	for _, c := range all[:min(len(all), shownCopies)] {
		rows = append(rows, []string{
			printable(c.Image), printable(c.Destination), size(c.Bytes), rate(c.Rate), span(now.Sub(c.Since)), printable(c.Worker),
		})
	}
	p.table(imageIndent, []column{
		text("UNDER WAY"), text("TO"), number("MOVED"), number("RATE"), number("FOR"), text("WORKER"),
	}, rows)
	if more := len(all) - shownCopies; more > 0 {
		p.line("%*sand %d more", imageIndent, "", more)
	}
}

// moving tells what the copies under way come to.
func moving(s run.Status) string {
	if len(s.UnderWay) == 0 {
		return ""
	}
	var bytes, each int64
	for _, c := range s.UnderWay {
		bytes += c.Bytes
		each += c.Rate
	}
	return fmt.Sprintf("%s under way: %s at %s", images(len(s.UnderWay)), size(bytes), rate(each))
}

// rate is a number of bytes a second.
func rate(bytes int64) string { return size(bytes) + "/s" }
