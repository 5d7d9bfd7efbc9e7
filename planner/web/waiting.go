package web

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/osism/skopeo-worker/planner/waiting"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/release"
)

// letIn releases the digest of a tag that waits.
type letIn struct {
	mirror     string
	repository reference.Repository
	tag        reference.Tag
	digest     reference.Digest
	list       bool // it is offered on the list of all that waits
}

// offeredOnList says in a form that the action is offered on the list of all that waits.
const offeredOnList = "list"

func parseRelease(_ *Site, mirror string, given url.Values) (action, error) {
	a := letIn{mirror: mirror, list: given.Get("on") == offeredOnList}
	var err error
	if a.repository, err = reference.ParseRepository(given.Get("repository")); err != nil {
		return nil, fmt.Errorf("%w: repository: %w", errBadRequest, err)
	}
	if a.tag, err = reference.ParseTag(given.Get("tag")); err != nil {
		return nil, fmt.Errorf("%w: tag: %w", errBadRequest, err)
	}
	if a.digest, err = reference.ParseDigest(given.Get("digest")); err != nil {
		return nil, fmt.Errorf("%w: digest: %w", errBadRequest, err)
	}
	return a, nil
}

func (a letIn) image() string {
	return reference.Reference{Repository: a.repository, Tag: a.tag}.String()
}

func (a letIn) Question() string { return "Release " + a.image() + " before its minimum age?" }
func (letIn) Explanation() string {
	return "The next run mirrors the digest. If the tag moves again, its new digest waits. The release holds for 90 days, and the log has your name with it."
}
func (letIn) Button() string { return "Release" }

func (a letIn) fields() []field {
	all := []field{{"repository", a.repository.String()}, {"tag", a.tag.String()}, {"digest", a.digest.String()}}
	if a.list {
		all = append(all, field{"on", offeredOnList})
	}
	return all
}

func (a letIn) back() place {
	if a.list {
		return place{path: "/images/waiting"}
	}
	return place{"/images", []string{"repository", a.repository.String()}}
}

// waits returns the tag. It returns waiting.ErrNot unless it waits with the digest and is not
// released.
func (a letIn) waits(ctx context.Context, site *Site) (waiting.Tag, error) {
	tags, releases, err := lookAtWaiting(ctx, site, a.mirror)
	if err != nil {
		return waiting.Tag{}, err
	}
	return waiting.Confirmed(waiting.Tag{Repository: a.repository, Tag: a.tag, Digest: a.digest}, tags, releases)
}

func (a letIn) review(ctx context.Context, site *Site) ([]detail, error) {
	t, err := a.waits(ctx, site)
	if err != nil {
		return nil, err
	}
	at := "nothing"
	if !t.At.IsZero() {
		at = t.At.String()
	}
	return []detail{{"Digest at the source", t.Digest.String()}, {"At the destination", at}, {"Waits until", t.Until}}, nil
}

func (a letIn) do(ctx context.Context, site *Site, user string) (string, error) {
	t, err := a.waits(ctx, site)
	if err != nil {
		return "", err
	}
	r := t.Release(user, time.Now())
	if err := site.Releases.Add(ctx, r); err != nil {
		return "", err
	}
	return waiting.Released(r), nil
}

// lookAtWaiting returns the tags of a mirror that wait, and what was released.
func lookAtWaiting(ctx context.Context, site *Site, mirror string) ([]waiting.Tag, []release.Release, error) {
	tags, err := waiting.List(ctx, site.Catalog, mirror)
	if err != nil {
		return nil, nil, err
	}
	releases, err := site.Releases.List(ctx)
	return tags, releases, err
}

// waitingPage is how many tags a page of the list of all that waits has, and releasesShown how
// many releases.
const waitingPage, releasesShown = 200, 100

// waitingView is the page of all tags that wait.
type waitingView struct {
	Tags     []waitingRow
	Found    int
	Releases []release.Release
	Hidden   int // releases
	paging
}

// waitingRow is a tag that waits, and its release if it has one.
type waitingRow struct {
	waiting.Tag
	Released release.Release
	Now      time.Time
}

func newWaitingRow(t waiting.Tag, releases []release.Release, now time.Time) waitingRow {
	row := waitingRow{Tag: t, Now: now}
	row.Released, _ = t.In(releases)
	return row
}

// IsReleased reports whether the digest of the tag was released.
func (r waitingRow) IsReleased() bool { return !r.Released.Digest.IsZero() }

// IsYoung reports whether the tag waits for more than the next run.
func (r waitingRow) IsYoung() bool { return !r.IsReleased() && r.Until.After(r.Now) }

func (*Server) waiting(site *Site, r *http.Request) (view, error) {
	p, err := pageOf(site, r)
	if err != nil {
		return view{}, err
	}
	tags, releases, err := lookAtWaiting(r.Context(), site, p.mirror)
	if err != nil {
		return view{}, err
	}
	v := waitingView{Found: len(tags), Releases: releases[:min(len(releases), releasesShown)]}
	v.Hidden = len(releases) - len(v.Releases)
	if v.paging, err = newPaging(r, len(tags), waitingPage); err != nil {
		return view{}, err
	}
	for _, t := range tags[v.from:v.to] {
		v.Tags = append(v.Tags, newWaitingRow(t, releases, p.At))
	}
	return p.view(view{Template: "waiting", Title: "Waiting images", Data: v})
}
