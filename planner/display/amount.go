package display

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/osism/skopeo-worker/shared/run"
)

// size is a number of bytes with an IEC prefix.
func size(bytes int64) string {
	const step = 1024
	if bytes < step {
		return fmt.Sprintf("%d B", bytes)
	}
	value, prefixes := float64(bytes)/step, "KMGTPE"
	// 1023.95 would be shown as 1024.0.
	for value >= step-0.05 && len(prefixes) > 1 {
		value, prefixes = value/step, prefixes[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, prefixes[0])
}

// count is a number with its noun.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func images(n int) string { return count(n, "image", "images") }

func chunks(n int) string { return count(n, "chunk", "chunks") }

// amount is a number with what it counts.
type amount struct {
	n    int
	what string
}

// outcomes are the images of a run by what became of them. Only a run that was ended
// has dropped any.
func outcomes(t run.Tally) []amount {
	var all []amount
	for _, o := range run.Outcomes {
		if n := *t.Of(o); n > 0 || o != run.Dropped {
			all = append(all, amount{n, string(o)})
		}
	}
	return all
}

// list puts amounts beside each other.
func list(amounts []amount) string {
	texts := make([]string, len(amounts))
	for i, a := range amounts {
		texts[i] = fmt.Sprintf("%d %s", a.n, a.what)
	}
	return strings.Join(texts, ", ")
}

// sum is a number with what it is made of.
func sum(total int, of []amount) string {
	if parts := list(known(of)); parts != "" {
		return fmt.Sprintf("%d: %s", total, parts)
	}
	return strconv.Itoa(total)
}

// known leaves out what is zero.
func known(amounts []amount) []amount {
	var left []amount
	for _, a := range amounts {
		if a.n != 0 {
			left = append(left, a)
		}
	}
	return left
}
