package registrytest

import "fmt"

// Contents describes the content that Catalogue stores.
type Contents struct {
	Repositories []Repository
	// The broken image cannot be copied: the registry does not have BrokenLayer. Mend restores
	// the layer.
	BrokenRepository string
	BrokenTag        string
	BrokenLayer      string
	Mend             func() error
}

// Repository is a repository and its tags.
type Repository struct {
	Name string
	Tags []string
}

// shelf keeps the first error, so that the code of Catalogue reads like a list.
type shelf struct {
	registry *Registry
	err      error
}

func (s *shelf) index(repository, tag string, index Index) {
	if s.err == nil {
		_, s.err = s.registry.PushIndex(repository, tag, index)
	}
}

func (s *shelf) image(repository, tag string, image Image) {
	if s.err == nil {
		_, s.err = s.registry.PushImage(repository, tag, image)
	}
}

func (s *shelf) chart(repository, version string) {
	if s.err == nil {
		_, s.err = s.registry.PushChart(repository, version)
	}
}

func (s *shelf) alias(repository, alias, tag string) {
	if s.err != nil {
		return
	}
	dgst, err := s.registry.Digest(repository, tag)
	if err != nil {
		s.err = err
		return
	}
	s.err = s.registry.Tag(repository, alias, dgst)
}

func (s *shelf) signature(repository, tag string) {
	if s.err != nil {
		return
	}
	dgst, err := s.registry.Digest(repository, tag)
	if err != nil {
		s.err = err
		return
	}
	_, s.err = s.registry.PushSignature(repository, dgst)
}

// Catalogue fills a registry with varied content for a demonstration: indexes and single
// images of both formats, shared layers, aliases, nested names, a signature, a Helm chart, and
// a broken image.
func Catalogue(r *Registry) (*Contents, error) {
	const (
		amd64, arm64 = "linux/amd64", "linux/arm64"
		broken       = "demo/worker"
		brokenTag    = "1.1.0"
	)
	base := Layer{Seed: "catalogue base", Size: 1 << 20}
	app := func(version string) Image {
		return Image{Version: version, Layers: []Layer{base, {Seed: "catalogue app " + version, Size: 64 << 10}}}
	}
	s := &shelf{registry: r}
	for _, version := range []string{"3.18", "3.19", "3.20"} {
		s.index("library/alpine", version, MultiPlatform(version, amd64, arm64))
	}
	s.alias("library/alpine", "latest", "3.20")
	for _, version := range []string{"1.25", "1.26"} {
		s.index("library/nginx", version, Index{Docker: true, Images: []Image{
			{Version: version, Platform: amd64}, {Version: version, Platform: arm64},
		}})
	}
	for _, version := range []string{"1.0.0", "1.1.0", "1.2.0"} {
		s.image("demo/api", version, app("api "+version))
		s.image(broken, version, app("worker "+version))
	}
	s.alias("demo/api", "latest", "1.2.0")
	s.signature("demo/api", "1.2.0")
	s.image("demo/team/tools/debug", "2024.1", Image{
		Version: "2024.1", Layers: []Layer{{Seed: "catalogue debug", Size: 32 << 10, Zstd: true}},
	})
	s.chart("charts/demo", "0.1.0")
	if s.err != nil {
		return nil, fmt.Errorf("fill the catalogue of %s: %w", r.Host(), s.err)
	}
	layer, mend, err := r.BreakImage(broken, brokenTag)
	if err != nil {
		return nil, err
	}
	contents := &Contents{BrokenRepository: broken, BrokenTag: brokenTag, BrokenLayer: layer, Mend: mend}
	for _, name := range []string{
		"charts/demo", "demo/api", "demo/team/tools/debug", broken, "library/alpine", "library/nginx",
	} {
		tags, err := r.Tags(name)
		if err != nil {
			return nil, err
		}
		contents.Repositories = append(contents.Repositories, Repository{name, tags})
	}
	return contents, nil
}
