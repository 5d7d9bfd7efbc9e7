package list

import "gopkg.in/yaml.v3"

// The keys under "tags", which are those of a selection.Selection.
const (
	keyInclude = "include"
	keyExclude = "exclude"
	keySemver  = "semver"
	keyLimit   = "limit"
	keyList    = "list"
)

var tagKeys = []string{keyInclude, keyExclude, keySemver, keyLimit, keyList}

// tags puts what an entry says of its tags in the place of the defaults, and notes
// the lines of the items under each key.
func (r *reader) tags(e *Entry, f field, lines map[string][]int) {
	if f.node.Kind != yaml.MappingNode || len(f.node.Content) == 0 {
		r.fail(f.line, "%s: expected a mapping with some of %s, found %s", keyTags, enumerate(tagKeys), describe(f.node))
		return
	}
	if !e.Tag.IsZero() || !e.Digest.IsZero() {
		r.fail(f.line, "%s: %s already names one image; remove its tag and digest, or %s", keyTags, e.Text, keyTags)
	}
	fields := r.fields(f.node, tagKeys, keyTags, entryKeys)
	if _, exactly := fields[keyList]; exactly {
		e.Selection = e.Selection.Contents()
	}
	lists := map[string]*[]string{keyInclude: &e.Selection.Include, keyExclude: &e.Selection.Exclude, keyList: &e.Selection.List}
	for _, key := range []string{keyInclude, keyExclude, keyList} {
		f, ok := fields[key]
		if !ok {
			continue
		}
		if key != keyList && f.node.Kind == yaml.ScalarNode && notString(f.node) == "" {
			*lists[key], lines[key] = []string{f.node.Value}, []int{f.line}
			continue
		}
		*lists[key], lines[key] = r.items(f)
	}
	if f, ok := fields[keySemver]; ok {
		lines[keySemver] = []int{f.line}
		if e.Selection.Semver, ok = r.text(f); ok && e.Selection.Semver == "" {
			r.fail(f.line, "%s: it is empty", f.name)
		}
	}
	if f, ok := fields[keyLimit]; ok {
		e.Selection.Limit = r.number(f)
	}
}
