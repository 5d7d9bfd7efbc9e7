// Package pruneplan reads plans of planner prune, which an operator may have edited. It refuses what
// docs/prune.schema.json refuses, and names the line, so that a plan with a typing error deletes nothing.
package pruneplan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/prune"
)

// problem is a mistake in a plan.
type problem struct {
	Line int // counted from 1; 0 stands for the whole plan
	Text string
}

// Error holds all problems of a plan, in the order of its lines. It wraps prune.ErrPlan.
type Error struct {
	Source   string // the path of the plan
	Problems []problem
}

// Error returns a line for each problem, in the format of compilers.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = fmt.Sprintf("%s:%d: %s", e.Source, p.Line, p.Text)
		if p.Line == 0 {
			lines[i] = e.Source + ": " + p.Text
		}
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns prune.ErrPlan.
func (e *Error) Unwrap() error { return prune.ErrPlan }

// Read parses a plan in YAML or JSON. The source is its path, for messages. The error wraps
// prune.ErrPlan.
func Read(data []byte, source string) (prune.Plan, error) {
	root, bad := document(data)
	if bad != nil {
		return prune.Plan{}, &Error{source, []problem{*bad}}
	}
	var r reader
	p := r.plan(root)
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b problem) int { return a.Line - b.Line })
		return prune.Plan{}, &Error{source, r.problems}
	}
	if err := p.Check(); err != nil {
		return prune.Plan{}, fmt.Errorf("%s: %w", source, err)
	}
	return p, nil
}

func document(data []byte) (*yaml.Node, *problem) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := decoder.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil, &problem{Text: "the plan is empty"}
	}
	if err == nil {
		err = decoder.Decode(&second)
	}
	switch {
	case err == nil:
		return nil, &problem{Line: second.Line, Text: "a second YAML document starts here, expected one"}
	case !errors.Is(err, io.EOF):
		line, text := list.Syntax(data, err)
		return nil, &problem{Line: line, Text: text}
	}
	return doc.Content[0], nil
}

func (r *reader) plan(node *yaml.Node) prune.Plan {
	f := r.mapping(node, "the plan", []string{"version", "mirror", "destination", "made", "grace", "recorded", "tags", "bytes", "repositories", "left"})
	p := prune.Plan{
		Version: int(r.number(f["version"])), Mirror: r.matching(f["mirror"], mirrorName, "a mirror name: 1 to 32 characters of a-z0-9-"),
		Made: r.time(f["made"]), Grace: r.matching(f["grace"], grace, "a time such as 30d or 12h"),
		Recorded: int(r.number(f["recorded"])), Tags: int(r.number(f["tags"])), Bytes: r.number(f["bytes"]),
		Repositories: []prune.Repository{}, Left: []prune.Left{},
	}
	if version := f["version"]; version.node != nil && p.Version != prune.Version {
		r.fail(version.node, "version: expected %d", prune.Version)
	}
	p.Destination = parsed(r, f["destination"], func(text string) (string, error) {
		_, err := reference.ParseDestination(text)
		return text, err
	})
	for _, item := range r.items(f["repositories"]) {
		p.Repositories = append(p.Repositories, r.repository(item, p.Destination))
	}
	for _, item := range r.items(f["left"]) {
		l := r.mapping(item.node, item.name, []string{"repository", "why"}, "tag")
		p.Left = append(p.Left, prune.Left{Repository: parsed(r, l["repository"], reference.ParseRepository), Tag: parsed(r, l["tag"], reference.ParseTag), Why: r.text(l["why"])})
	}
	return p
}

func (r *reader) repository(at field, destination string) prune.Repository {
	f := r.mapping(at.node, at.name, []string{"repository", "recorded", "tags"}, "manifests")
	repository := prune.Repository{Repository: parsed(r, f["repository"], reference.ParseRepository), Recorded: int(r.number(f["recorded"]))}
	if !repository.Repository.IsZero() && !prune.Below(repository.Repository, destination) {
		r.fail(f["repository"].node, "%s: %s is not below %s", f["repository"].name, repository.Repository, destination)
	}
	for _, item := range r.items(f["tags"]) {
		repository.Tags = append(repository.Tags, r.tag(item))
	}
	for _, item := range r.items(f["manifests"]) {
		repository.Manifests = append(repository.Manifests, parsed(r, item, reference.ParseDigest))
	}
	return repository
}

func (r *reader) tag(at field) prune.Tag {
	f := r.mapping(at.node, at.name, []string{"tag", "digest", "why", "bytes"}, "since", "alone", "of")
	return prune.Tag{
		Tag: parsed(r, f["tag"], reference.ParseTag), Digest: parsed(r, f["digest"], reference.ParseDigest), Why: r.text(f["why"]),
		Since: r.time(f["since"]), Alone: r.boolean(f["alone"]), Of: parsed(r, f["of"], reference.ParseDigest), Bytes: r.number(f["bytes"]),
	}
}
