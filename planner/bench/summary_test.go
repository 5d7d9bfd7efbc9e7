package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// group is what was measured with one catalogue in one phase.
type group struct {
	world, catalogue, phase string
	results                 []result
}

func (r report) groups() []group {
	var groups []group
	for _, one := range r.Results {
		i := slices.IndexFunc(groups, func(g group) bool {
			return g.world == one.World && g.catalogue == one.Catalogue && g.phase == one.Phase
		})
		if i < 0 {
			i = len(groups)
			groups = append(groups, group{world: one.World, catalogue: one.Catalogue, phase: one.Phase})
		}
		groups[i].results = append(groups[i].results, one)
	}
	return groups
}

// of returns the result of a program; ok is false if it was not measured.
func (g group) of(program string) (r result, ok bool) {
	i := slices.IndexFunc(g.results, func(r result) bool { return r.Program == program })
	if i < 0 {
		return result{}, false
	}
	return g.results[i], true
}

// fastest returns the fastest rival that mirrored everything; ok is false if none did.
func (g group) fastest() (r result, ok bool) {
	for _, one := range g.results {
		rival := slices.ContainsFunc(programs[rivalsFrom:], func(p program) bool { return p.name == one.Program })
		if rival && one.whole() && (!ok || one.Seconds < r.Seconds) {
			r, ok = one, true
		}
	}
	return r, ok
}

// summary compares ours with the rivals, in a line for each group that has any.
func (r report) summary() string {
	var out strings.Builder
	out.WriteString("| | builtin: speed against regsync, default | against the fastest rival | CPU time against regsync, tuned | skopeo: speed against regsync, default | against the fastest rival |\n")
	out.WriteString("|---|--:|--:|--:|--:|--:|\n")
	for _, g := range r.groups() {
		fastest, any := g.fastest()
		if !any {
			continue
		}
		byDefault, _ := g.of(regsyncName)
		builtin, _ := g.of(builtinName)
		skopeo, _ := g.of(skopeoName)
		load := ""
		if tuned, ok := g.of(tunedName); ok && tuned.whole() && builtin.whole() {
			load = fmt.Sprintf("%.1f ×", builtin.CPU/tuned.CPU)
		}
		against := func(r result) string {
			if text := ratio(fastest, r); text != "" {
				return text + " " + fastest.Program
			}
			return ""
		}
		fmt.Fprintf(&out, "| %s, %s, %s | %s | %s | %s | %s | %s |\n", g.world, g.catalogue, g.phase,
			ratio(byDefault, builtin), against(builtin), load, ratio(byDefault, skopeo), against(skopeo))
	}
	return out.String()
}

// whole reports whether the program ended well and left out no tag.
func (r result) whole() bool { return r.Seconds > 0 && r.Ended == "" && r.Missing == 0 }

// ratio says how many times as fast as the base a program is. One that was ended or left
// something out has no speed; if the base was ended, the ratio is a lower bound.
func ratio(base, r result) string {
	bound := ""
	switch {
	case !r.whole():
		return ""
	case base.Ended == outOfTime:
		bound = "> "
	case !base.whole():
		return ""
	}
	return fmt.Sprintf("%s%.1f ×", bound, base.Seconds/r.Seconds)
}

func TestRatio(t *testing.T) {
	done := func(seconds float64) result { return result{used: used{Seconds: seconds}} }
	ended := result{used: used{Seconds: 45, Ended: outOfTime}}
	failed := result{used: used{Seconds: 1, Ended: "exit status 1"}}
	partial := result{used: used{Seconds: 1}, Missing: 3}
	for _, test := range []struct {
		base, r result
		want    string
	}{
		{done(10), done(4), "2.5 ×"},
		{done(10), ended, ""},
		{done(10), failed, ""},
		{done(10), partial, ""},
		{ended, done(9), "> 5.0 ×"},
		{ended, ended, ""},
		{failed, done(9), ""},
		{partial, done(9), ""},
	} {
		require.Equal(t, test.want, ratio(test.base, test.r), "%+v of %+v", test.r, test.base)
	}
	require.Equal(t, "complete", done(1).ending())
	require.Equal(t, "3 missing", partial.ending())
	require.Equal(t, "out of time, 2 with another digest", result{used: ended.used, Changed: 2}.ending())
}

func TestSummary(t *testing.T) {
	one := func(program string, seconds, cpu float64, missing int) result {
		return result{World: "quay.io", Catalogue: "small", Phase: cold, Program: program, used: used{Seconds: seconds, CPU: cpu}, Missing: missing}
	}
	r := report{Results: []result{
		one(builtinName, 2, 3, 0), one(skopeoName, 8, 9, 1), one(regsyncName, 20, 1, 0), one(tunedName, 5, 2, 0), one(programs[4].name, 1, 1, 2),
	}}
	require.Contains(t, r.summary(), "| quay.io, small, cold | 10.0 × | 2.5 × regsync, tuned | 1.5 × |  |  |\n")
	require.Len(t, r.groups(), 1)
}
