package list

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// The keys of an entry that is a mapping.
const (
	keyImage        = "image"
	keyTags         = "tags"
	keyPlatforms    = "platforms"
	keyAttestations = "attestations"
	keyReferrers    = "referrers"
	keyImmutable    = "immutable"
	keyKeep         = "keep"
	keyDestination  = "destination"

	keyMinAge          = "min_age"
	keyMinTags         = "min_tags"
	keyBackup          = "backup"
	keyRepositories    = "repositories"     // of a namespace
	keyMinRepositories = "min_repositories" // of a namespace
)

var entryKeys = []string{keyImage, keyTags, keyPlatforms, keyAttestations, keyReferrers, keyImmutable, keyKeep, keyBackup, keyMinAge, keyMinTags, keyDestination, keyRepositories, keyMinRepositories}

// reader parses the nodes of entries, and collects their problems.
type reader struct {
	dest     reference.Destination
	defaults selection.Selection
	problems []problem

	namespaces []Namespace
}

func (r *reader) fail(line int, format string, args ...any) {
	r.problems = append(r.problems, problem{Line: line, Message: fmt.Sprintf(format, args...)})
}

// entries returns the entries without problems. It adds namespaces to r.namespaces.
func (r *reader) entries(nodes []*yaml.Node) []Entry {
	entries := make([]Entry, 0, len(nodes))
	for _, node := range nodes {
		before := len(r.problems)
		entry := r.entry(node)
		switch {
		case len(r.problems) > before:
		case entry.namespace != nil && entry.namespace.isItself():
			r.fail(entry.Line, itself, entry.Text)
		case entry.namespace != nil:
			r.namespaces = append(r.namespaces, entry.finish())
		default:
			entries = append(entries, entry)
		}
	}
	return entries
}

func (r *reader) entry(node *yaml.Node) Entry {
	e := Entry{Line: node.Line, Selection: r.defaults}
	value := resolve(node)
	if value.Kind == yaml.MappingNode {
		r.mapping(&e, value)
		return e
	}
	if found := notString(value); found != "" {
		r.fail(e.Line, "expected a string host/path[:tag][@digest] or a mapping with the key %q, found %s", keyImage, found)
		return e
	}
	r.image(&e, e.Line, value.Value)
	if e.namespace == nil {
		r.destination(&e, e.Line, e.Repository.Path())
	}
	return e
}

// spaced returns the image in "nginx: 1.25" or "nginx:", which YAML parses as a mapping. For other
// mappings, it returns "".
func spaced(value *yaml.Node) string {
	if len(value.Content) != 2 || slices.Contains(entryKeys, value.Content[0].Value) || resolve(value.Content[1]).Kind != yaml.ScalarNode {
		return ""
	}
	image := value.Content[0].Value
	if tag := resolve(value.Content[1]); tag.ShortTag() != "!!null" {
		image += ":" + tag.Value
	}
	if _, err := reference.Parse(image); err != nil {
		return ""
	}
	return image
}

func (r *reader) mapping(e *Entry, value *yaml.Node) {
	if image := spaced(value); image != "" {
		r.fail(e.Line, "expected a string or the key %q, found the key %q; write %s", keyImage, value.Content[0].Value, image)
		return
	}
	fields := r.fields(value, entryKeys, "", append(prefixed(keyTags, tagKeys), prefixed(keyRepositories, repositoryKeys)...))
	if f, ok := fields[keyImage]; ok {
		if text, ok := r.text(f); ok {
			r.image(e, f.line, text)
		}
	} else {
		r.fail(e.Line, "the key %q is missing", keyImage)
	}
	lines := map[string][]int{}
	read := func(key string, value func(field)) {
		if f, ok := fields[key]; ok {
			value(f)
		}
	}
	s := &e.Selection
	read(keyTags, func(f field) { r.tags(e, f, lines) })
	read(keyPlatforms, func(f field) { s.Platforms, lines[keyPlatforms] = r.items(f) })
	read(keyAttestations, func(f field) { s.WithoutAttestations = !r.boolean(f) })
	read(keyReferrers, func(f field) { s.Referrers = r.boolean(f) })
	read(keyImmutable, func(f field) { s.Immutable, lines[keyImmutable] = r.patterns(f) })
	read(keyKeep, func(f field) { s.Keep, lines[keyKeep] = r.patterns(f) })
	read(keyMinAge, func(f field) { s.MinAge = r.minAge(f) })
	read(keyBackup, func(f field) { s.Backup = r.backup(f) })
	read(keyMinTags, func(f field) { r.minTags(e, f) })
	r.check(e, lines)
	if r.namespaced(e, fields) {
		return
	}
	if f, ok := fields[keyDestination]; !ok {
		r.destination(e, e.Line, e.Repository.Path())
	} else if path, ok := r.text(f); ok {
		r.destination(e, f.line, path)
	}
}

// off reports whether a field is false, which switches the default of a variable off.
func (f field) off() bool {
	var value bool
	return f.node.ShortTag() == "!!bool" && f.node.Decode(&value) == nil && !value
}

// patterns reads regular expressions, or false.
func (r *reader) patterns(f field) (texts []string, lines []int) {
	if f.off() {
		return nil, nil
	}
	return r.expressions(f)
}

// minAge reads an age, or false.
func (r *reader) minAge(f field) selection.Age {
	if f.off() {
		return 0
	}
	return r.age(f)
}

// backup reads a template of backups, or false.
func (r *reader) backup(f field) selection.Backup {
	if f.off() {
		return selection.Backup{}
	}
	text, ok := r.text(f)
	if !ok {
		return r.defaults.Backup
	}
	backup := selection.Backup{Template: text, Keep: cmp.Or(r.defaults.Backup.Keep, selection.Backups)}
	if err := backup.Validate(); err != nil {
		r.fail(f.line, "%s: %v", f.name, err)
		return selection.Backup{}
	}
	return backup
}

// minTags reads the number of tags that an entry must have at least.
func (r *reader) minTags(e *Entry, f field) {
	e.Selection.MinTags = r.number(f)
	switch {
	case e.Selection.MinTags == 0:
		r.fail(f.line, "%s: expected 1 or more", f.name)
	case !e.Tag.IsZero() || !e.Digest.IsZero() || len(e.Selection.List) > 0:
		r.fail(f.line, "%s: %s names its tags; remove them, or %s", f.name, e.Text, f.name)
	}
}

// check validates the selection of an entry. lines are the line numbers of the items under each key of
// the entry.
func (r *reader) check(e *Entry, lines map[string][]int) {
	var bad *selection.Error
	if errors.As(e.Selection.Validate(), &bad) {
		for _, p := range bad.Problems {
			line, name := e.Line, p.String()
			if items := lines[p.Key]; len(items) > 0 {
				line = items[max(0, p.Index)]
			}
			if slices.Contains(tagKeys, p.Key) {
				name = keyTags + "." + name
			}
			r.fail(line, "%s", name)
		}
		return
	}
	e.Selection.Platforms, _ = selection.ParsePlatforms(e.Selection.Platforms)
}

func (r *reader) image(e *Entry, line int, text string) {
	if reference.IsNamespace(text) {
		r.namespace(e, line, text)
		return
	}
	ref, err := reference.Parse(text)
	if err != nil {
		r.fail(line, "%v", err)
		return
	}
	e.Reference, e.Text = ref, text
	if !ref.Tag.IsZero() || !ref.Digest.IsZero() {
		e.Selection = e.Selection.Contents()
	}
}

// destination sets the repository at the destination. Its path is that of the source, or the value of
// the key destination.
func (r *reader) destination(e *Entry, line int, path string) {
	if path == "" && e.Repository.Path() == "" {
		return
	}
	name := r.dest.Repository(path)
	target, err := reference.Parse(name)
	switch {
	case path != e.Repository.Path() && (err != nil || target.Repository.String() != name || !target.Tag.IsZero() || !target.Digest.IsZero()):
		why := "expected a repository's path, without host, tag and digest"
		if err != nil {
			_, reason, _ := strings.Cut(err.Error(), `": `)
			why += ": " + reason
		}
		r.fail(line, "%s: %q is invalid, %s", keyDestination, path, why)
	case err != nil:
		r.fail(line, "%s cannot be named at the destination: %v", e.Repository, err)
	default:
		e.Destination = target.Repository
	}
}

// The keys under "tags", which are those of a selection.Selection.
const (
	keyInclude = "include"
	keyExclude = "exclude"
	keySemver  = "semver"
	keyNewer   = "newer_than"
	keyLimit   = "limit"
	keyList    = "list"
)

var tagKeys = []string{keyInclude, keyExclude, keySemver, keyNewer, keyLimit, keyList}

// tags replaces the default selection of tags. It sets lines, the line numbers of the items under each
// key.
func (r *reader) tags(e *Entry, f field, lines map[string][]int) {
	if f.node.Kind != yaml.MappingNode || len(f.node.Content) == 0 {
		hint := ""
		if f.node.Kind == yaml.ScalarNode && f.node.ShortTag() == "!!str" || f.node.Kind == yaml.SequenceNode {
			hint = fmt.Sprintf("; write single tags as %s: {%s: [a, b]}", keyTags, keyList)
		}
		r.fail(f.line, "%s: expected a mapping with some of %s, found %s%s", keyTags, enumerate(tagKeys), describe(f.node), hint)
		return
	}
	if !e.Tag.IsZero() || !e.Digest.IsZero() {
		r.fail(f.line, "%s: %s already names one image; remove its tag and digest, or %s", keyTags, e.Text, keyTags)
	}
	fields := r.fields(f.node, tagKeys, keyTags, entryKeys)
	if _, exactly := fields[keyList]; exactly {
		e.Selection = e.Selection.Contents()
	}
	if f, ok := fields[keyInclude]; ok {
		e.Selection.Include, lines[keyInclude] = r.expressions(f)
	}
	if f, ok := fields[keyExclude]; ok {
		e.Selection.Exclude, lines[keyExclude] = r.expressions(f)
	}
	if f, ok := fields[keyList]; ok {
		e.Selection.List, lines[keyList] = r.items(f)
	}
	if f, ok := fields[keySemver]; ok {
		lines[keySemver] = []int{f.line}
		if e.Selection.Semver, ok = r.text(f); ok && e.Selection.Semver == "" {
			r.fail(f.line, "%s: it is empty", f.name)
		}
	}
	if f, ok := fields[keyNewer]; ok {
		e.Selection.NewerThan = r.age(f)
	}
	if f, ok := fields[keyLimit]; ok {
		e.Selection.Limit = r.number(f)
	}
}
