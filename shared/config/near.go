package config

import (
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"

	"github.com/hbollon/go-edlib"
)

// A name of a setting needs this length, without underscores, so that another name with one or two
// other characters counts as a mistake for it. Shorter names are similar to too many others:
// NATS_PORT, which Kubernetes sets, is two characters from NATS_CERT.
const (
	oneMistake  = 5
	twoMistakes = 10
)

// sameWord is how many first letters a word and its abbreviation share, as DEST and DESTINATION do.
const sameWord = 4

// NearMisses returns a warning for each variable of the environment ("NAME=value") that no setting
// reads, if its name is similar to that of a setting that is not set. The warnings have no values,
// because these may be secrets.
func NearMisses(environ []string, settings ...any) []string {
	var names []string
	for name := range variables(settings) {
		names = append(names, name)
	}
	set := map[string]bool{}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		set[name] = value != ""
	}
	var warnings []string
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if !set[name] || slices.Contains(names, name) {
			continue
		}
		for _, ours := range names {
			if !set[ours] && near(name, ours) {
				warnings = append(warnings, fmt.Sprintf("%s is set but not read; is %s meant?", name, ours))
				break
			}
		}
	}
	slices.Sort(warnings)
	return warnings
}

// variables yields the names of the variables of settings, with the tags of their fields.
func variables(settings []any) iter.Seq2[string, reflect.StructTag] {
	return func(yield func(string, reflect.StructTag) bool) {
		for _, s := range settings {
			for field := range reflect.TypeOf(s).Elem().Fields() {
				if name := field.Tag.Get("envconfig"); name != "" && !yield(name, field.Tag) {
					return
				}
			}
		}
	}
}

// near reports whether a name is likely to be a mistake for the name of a setting.
func near(name, ours string) bool {
	words, want := strings.FieldsFunc(strings.ToUpper(name), separator), strings.Split(ours, "_")
	bare, target := strings.Join(words, ""), strings.Join(want, "")
	distance := max(len(bare)-len(target), len(target)-len(bare)) // at least
	if distance <= 2 {
		distance = edlib.OSADamerauLevenshteinDistance(bare, target)
	}
	if distance == 0 || distance == 1 && len(target) >= oneMistake || distance == 2 && len(target) >= twoMistakes {
		return true
	}
	if len(words) < 2 || len(words) > len(want) {
		return false
	}
	// MIRROR_DESTINATION_URL and MIRROR_SOURCE are meant to be MIRROR_DEST_URL and
	// MIRROR_SOURCE_URL.
	for i, word := range words {
		if word != want[i] && (len(word) < sameWord || len(want[i]) < sameWord || word[:sameWord] != want[i][:sameWord]) {
			return false
		}
	}
	return true
}

func separator(r rune) bool { return r == '_' || r == '-' || r == '.' }
