package list

import "fmt"

// unique drops the entries that repeat an earlier one.
func unique(entries []Entry) (kept []Entry, duplicates []Problem) {
	first := map[string]int{}
	for _, e := range entries {
		name := e.String()
		if line, again := first[name]; again {
			duplicates = append(duplicates, Problem{Line: e.Line, Message: fmt.Sprintf("%s is in line %d already, it is mirrored once", name, line)})
			continue
		}
		first[name] = e.Line
		kept = append(kept, e)
	}
	return kept, duplicates
}

// clashes finds entries that would overwrite each other at the destination.
func clashes(entries []Entry) []Problem {
	type target struct{ repository, tag string }
	var problems []Problem
	owner := map[string]Entry{} // by repository at the destination
	whole := map[string]Entry{} // entries for every tag
	claimed := map[target]Entry{}
	for _, e := range entries {
		first, taken := owner[e.Destination]
		if !taken {
			owner[e.Destination] = e
		} else if first.Repository() != e.Repository() {
			problems = append(problems, Problem{Line: e.Line, Message: fmt.Sprintf("%s and %s in line %d would both be mirrored to %s",
				e.Repository(), first.Repository(), first.Line, e.Destination)})
			continue
		}
		tag := e.DestinationTag()
		if tag == "" {
			whole[e.Destination] = e
			continue
		}
		t := target{e.Destination, tag}
		if first, taken := claimed[t]; taken {
			problems = append(problems, Problem{Line: e.Line, Message: fmt.Sprintf("%s and %s in line %d would overwrite each other as %s:%s",
				e, first, first.Line, e.Destination, tag)})
			continue
		}
		claimed[t] = e
	}
	for _, e := range entries {
		all, ok := whole[e.Destination]
		if ok && e.Tag != "" && e.Digest != "" && e.Repository() == all.Repository() {
			problems = append(problems, Problem{Line: e.Line, Message: fmt.Sprintf("%s pins a tag that %s in line %d mirrors too, they would overwrite each other",
				e, all, all.Line)})
		}
	}
	return problems
}
