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

// parseRelease parses the release of a digest that waits under a tag.
func parseRelease(_ *Site, mirror string, given url.Values) (action, error) {
	var seen waiting.Tag
	var err error
	if seen.Repository, err = reference.ParseRepository(given.Get("repository")); err != nil {
		return action{}, fmt.Errorf("%w: repository: %w", errBadRequest, err)
	}
	if seen.Tag, err = reference.ParseTag(given.Get("tag")); err != nil {
		return action{}, fmt.Errorf("%w: tag: %w", errBadRequest, err)
	}
	if seen.Digest, err = reference.ParseDigest(given.Get("digest")); err != nil {
		return action{}, fmt.Errorf("%w: digest: %w", errBadRequest, err)
	}
	repository := seen.Repository.String()
	a := action{
		Question:    "Release " + seen.Image() + " before its minimum age?",
		Explanation: "The next run mirrors the digest. If the tag moves again, its new digest waits. The release holds for 90 days. The log records it with your name.",
		Button:      "Release",
		fields:      []field{{"repository", repository}, {"tag", seen.Tag.String()}, {"digest", seen.Digest.String()}},
		back:        place{"/images", []string{"repository", repository}},
		review: func(ctx context.Context, site *Site) ([]detail, error) {
			t, err := confirmed(ctx, site, mirror, seen)
			if err != nil {
				return nil, err
			}
			at := "nothing"
			if !t.At.IsZero() {
				at = t.At.String()
			}
			return []detail{{"Digest at the source", t.Digest.String()}, {"At the destination", at}, {"Waits until", t.Until}}, nil
		},
		do: func(ctx context.Context, site *Site, user string) (string, error) {
			t, err := confirmed(ctx, site, mirror, seen)
			if err != nil {
				return "", err
			}
			r := t.Release(user, time.Now())
			return waiting.Released(r), site.Releases.Add(ctx, r)
		},
	}
	if given.Get("on") == "list" { // the list of all waiting images has the link
		a.fields, a.back = append(a.fields, field{"on", "list"}), place{path: "/images/waiting"}
	}
	return a, nil
}

// confirmed returns the tag as it waits now. It returns waiting.ErrNot if the tag no longer waits with
// the digest that the user has seen, or if that digest was released.
func confirmed(ctx context.Context, site *Site, mirror string, seen waiting.Tag) (waiting.Tag, error) {
	tags, releases, err := lookAtWaiting(ctx, site, mirror)
	if err != nil {
		return waiting.Tag{}, err
	}
	return waiting.Confirmed(seen, tags, releases)
}

// lookAtWaiting returns the waiting tags of a mirror, and all releases.
func lookAtWaiting(ctx context.Context, site *Site, mirror string) ([]waiting.Tag, []release.Release, error) {
	tags, err := waiting.List(ctx, site.Catalog, mirror)
	if err != nil {
		return nil, nil, err
	}
	releases, err := site.Releases.List(ctx)
	return tags, releases, err
}

// waitingPage is how many tags one page lists, and releasesShown how many releases.
const waitingPage, releasesShown = 200, 100

// waitingView is the page of all waiting tags.
type waitingView struct {
	Tags     []waitingRow
	Found    int
	Releases []release.Release
	Hidden   int // releases that are not shown
	paging
}

// waitingRow is a waiting tag and its release, which is zero if it has none.
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

// IsYoung reports whether the next run would not mirror the tag yet.
func (r waitingRow) IsYoung() bool { return !r.IsReleased() && r.Until.After(r.Now) }

func waitingTags(site *Site, p mirrorPage, r *http.Request) (view, error) {
	tags, releases, err := lookAtWaiting(r.Context(), site, p.name)
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
	return view{Template: "waiting", Title: "Waiting images", Data: v}, nil
}
