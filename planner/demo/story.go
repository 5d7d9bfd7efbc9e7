//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// Exit codes of the planner.
const (
	exitDone     = 0
	exitFailures = 1
)

// prefix is the path of the mirror at the destination.
const prefix = "mirror"

// story is the state that the steps of the demo share.
type story struct {
	source, destination *registrytest.Registry
	contents            *registrytest.Contents
	planner             *planner
}

// play runs the whole demo. Before it returns, it stops its registries and removes its files.
func play(ctx context.Context) error {
	s, end, err := prepare()
	if err != nil {
		return err
	}
	defer end()
	for _, step := range []func(context.Context) error{s.mirror, s.republish, s.mirrorAgain} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	tags, err := s.verify()
	if err != nil {
		return err
	}
	say("All %d tags at the destination have the digests of the source.", tags)
	return nil
}

// prepare starts the registries, fills the source, and writes the list.
func prepare() (s *story, end func(), err error) {
	var ends []func()
	end = func() {
		for _, e := range ends {
			e()
		}
	}
	defer func() {
		if err != nil {
			end()
		}
	}()
	s = &story{}
	for _, r := range []**registrytest.Registry{&s.source, &s.destination} {
		if *r, err = registrytest.Start(); err != nil {
			return nil, nil, err
		}
		ends = append(ends, (*r).Close)
	}
	if s.contents, err = registrytest.Catalogue(s.source); err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "skopeo-worker-demo-")
	if err != nil {
		return nil, nil, fmt.Errorf("making a temporary folder: %w", err)
	}
	ends = append(ends, func() { _ = os.RemoveAll(dir) })
	list := filepath.Join(dir, "images.yml")
	if err := os.WriteFile(list, []byte(s.list()), 0o600); err != nil {
		return nil, nil, fmt.Errorf("writing the list: %w", err)
	}
	s.planner, err = newPlanner(map[string]string{
		"MIRROR_SOURCE_URL":   list,
		"MIRROR_DEST_URL":     s.destination.Host() + "/" + prefix,
		"INSECURE_REGISTRIES": s.source.Host() + "," + s.destination.Host(),
		"DATA_DIR":            filepath.Join(dir, "data"),
		"CHUNK_SIZE":          "2",
	})
	return s, end, err
}

// list returns a list with every repository of the source.
func (s *story) list() string {
	var b strings.Builder
	b.WriteString("containers:\n")
	for _, r := range s.contents.Repositories {
		_, _ = fmt.Fprintf(&b, "  - %s/%s\n", s.source.Host(), r.Name)
	}
	return b.String()
}

func (s *story) mirror(ctx context.Context) error {
	tags := 0
	for _, r := range s.contents.Repositories {
		tags += len(r.Tags)
	}
	say("A source registry at %s holds %d tags in %d repositories. One of its images, %s, lacks a layer.",
		s.source.Host(), tags, len(s.contents.Repositories), s.broken())
	say("A destination registry at %s is empty. This fills it:", s.destination.Host())
	s.planner.showSettings()
	if err := s.planner.run(ctx, exitFailures, "mirror"); err != nil {
		return err
	}
	say("Exit code %d: all images but the broken one were mirrored; its failure is kept with the reason:", exitFailures)
	shown, err := s.planner.output(ctx, "failed")
	if err == nil && !strings.Contains(shown, s.broken()) {
		err = fmt.Errorf("planner failed does not show %s", s.broken())
	}
	return err
}

func (s *story) republish(ctx context.Context) error {
	if err := s.contents.Mend(); err != nil {
		return fmt.Errorf("mending %s: %w", s.broken(), err)
	}
	say("Now the image is repaired at the source. Only this image is retried:")
	repository := s.source.Host() + "/" + s.contents.BrokenRepository
	if err := s.planner.run(ctx, exitDone, "republish", repository); err != nil {
		return err
	}
	say("And it is no longer among the failures:")
	shown, err := s.planner.output(ctx, "failed")
	if err == nil && strings.Contains(shown, s.broken()) {
		err = fmt.Errorf("planner failed still shows %s", s.broken())
	}
	return err
}

// mirrorAgain mirrors once more. The records of the registries must show no pull and no upload.
func (s *story) mirrorAgain(ctx context.Context) error {
	say("The same command the next night, when nothing has changed:")
	s.source.ResetRequests()
	s.destination.ResetRequests()
	if err := s.planner.run(ctx, exitDone, "mirror"); err != nil {
		return err
	}
	if n := s.source.Pulls(); n > 0 {
		return fmt.Errorf("the second planner mirror pulled %d manifests from the source, expected none", n)
	}
	writes := s.destination.Count(registrytest.Kinds(
		registrytest.KindManifestPut, registrytest.KindBlobUpload, registrytest.KindBlobMount))
	if writes > 0 {
		return fmt.Errorf("the second planner mirror wrote %d times to the destination, expected nothing", writes)
	}
	say("The source saw no pull, the destination no upload.")
	return nil
}

// verify compares every tag of the source with the destination, and returns the number of tags.
func (s *story) verify() (tags int, err error) {
	for _, r := range s.contents.Repositories {
		mirrored := prefix + "/" + r.Name
		for _, tag := range r.Tags {
			want, err := s.source.Digest(r.Name, tag)
			if err != nil {
				return 0, err
			}
			got, err := s.destination.Digest(mirrored, tag)
			if err != nil {
				return 0, err
			}
			if got != want {
				return 0, fmt.Errorf("%s:%s is %s at the destination, expected %s", mirrored, tag, got, want)
			}
			if err := s.destination.Check(mirrored, tag); err != nil {
				return 0, fmt.Errorf("%s:%s is incomplete at the destination: %w", mirrored, tag, err)
			}
			tags++
		}
	}
	return tags, nil
}

// broken names the broken image as the planner does.
func (s *story) broken() string {
	return s.source.Host() + "/" + s.contents.BrokenRepository + ":" + s.contents.BrokenTag
}

func say(format string, args ...any) { fmt.Printf("\n"+format+"\n", args...) }
