package list

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// suggest names the key that was most likely meant, if one is near enough: a typo
// for each three of its characters, and at least one. Keys of the place itself go
// before others, which belong elsewhere.
func suggest(unknown string, keys, others []string) string {
	folded := strings.ToLower(unknown)
	best, nearest := "", math.MaxInt
	for _, key := range append(keys[:len(keys):len(keys)], others...) {
		name := key[strings.LastIndexByte(key, '.')+1:]
		typos := max(1, len(name)/3)
		if len(folded) > len(name)+typos {
			continue // a key may be as long as a list
		}
		if d := distance(folded, name); d <= typos && d < nearest {
			best, nearest = key, d
		}
	}
	switch {
	case best == "":
		return ", expected one of " + enumerate(keys)
	case !slices.Contains(keys, best):
		return "; it belongs elsewhere, as " + strconv.Quote(best)
	default:
		return "; is " + strconv.Quote(best) + " meant?"
	}
}

// distance is the optimal string alignment distance: insertions, deletions,
// substitutions, and swaps of neighbours.
func distance(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, change)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

func prefixed(parent string, keys []string) []string {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = parent + "." + key
	}
	return names
}

func enumerate(keys []string) string { return strings.Join(keys, ", ") }
