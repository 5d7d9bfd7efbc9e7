package estimate

import "time"

const (
	// paceWindow is how far back a pace looks: over some images, but not into a time before
	// the run waited.
	paceWindow = 2 * time.Minute
	// paceStep is the least time between two samples.
	paceStep = time.Second
	// paceStart is how long a pace is measured before it is believed.
	paceStart = 5 * time.Second
)

// Pace is how fast a run progresses, by the images that have ended in the last minutes. Its zero
// value is ready to use.
type Pace struct{ samples []sample }

type sample struct {
	at    time.Time
	ended int
}

// Add notes how many images of the run have an outcome.
func (p *Pace) Add(at time.Time, ended int) {
	if n := len(p.samples); n > 0 && at.Sub(p.samples[n-1].at) < paceStep {
		return
	}
	p.samples = append(p.samples, sample{at, ended})
	for len(p.samples) > 2 && at.Sub(p.samples[1].at) >= paceWindow {
		p.samples = p.samples[1:]
	}
}

// Left returns how long a number of images takes at this pace. It returns false if no image has
// ended yet.
func (p *Pace) Left(images int) (time.Duration, bool) {
	if len(p.samples) < 2 {
		return 0, false
	}
	first, last := p.samples[0], p.samples[len(p.samples)-1]
	took, ended := last.at.Sub(first.at), last.ended-first.ended
	if ended <= 0 || took < paceStart {
		return 0, false
	}
	return time.Duration(float64(took) / float64(ended) * float64(images)), true
}

// Images estimates how many images a run has: each chunk that is not resolved yet counts as
// many as the resolved ones have on average. exact is false if there are such chunks.
func Images(known, chunks, unresolved int) (total int, exact bool) {
	if unresolved == 0 || chunks <= unresolved {
		return known, unresolved == 0
	}
	return known * chunks / (chunks - unresolved), false
}
