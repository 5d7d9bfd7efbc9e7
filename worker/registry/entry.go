package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/osism/skopeo-worker/shared/reference"
)

// Entry is a descriptor as an index writes it.
type Entry struct {
	Descriptor
	Annotations map[string]string
	Raw         json.RawMessage // all of it, what we do not know included
}

// Entries are what an index lists, in its order: Children, with all that is
// written about them. An image has none. The error is ErrBadManifest.
func (m Manifest) Entries() ([]Entry, error) {
	children, err := m.Children()
	if err != nil || len(children) == 0 {
		return nil, err
	}
	var index struct {
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(m.Raw, &index); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadManifest, err)
	}
	entries := make([]Entry, len(children))
	for i, child := range children {
		var more struct {
			Annotations map[string]string `json:"annotations"`
		}
		if err := json.Unmarshal(index.Manifests[i], &more); err != nil {
			return nil, fmt.Errorf("%w: child %d: %w", ErrBadManifest, i+1, err)
		}
		entries[i] = Entry{Descriptor: child, Annotations: more.Annotations, Raw: index.Manifests[i]}
	}
	return entries, nil
}

// WithEntries returns the index with these entries instead of its own, and
// these annotations beside its own. Everything else is kept; white space and the
// order of the index's own fields are not. The same input gives the same digest.
// The error is ErrBadManifest.
func (m Manifest) WithEntries(entries []Entry, annotations map[string]string) (Manifest, error) {
	fields := make(map[string]json.RawMessage)
	if err := json.Unmarshal(m.Raw, &fields); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrBadManifest, err)
	}
	listed := make([]json.RawMessage, len(entries))
	for i, entry := range entries {
		listed[i] = entry.Raw
	}
	var err error
	if fields["manifests"], err = encode(listed); err != nil {
		return Manifest{}, err
	}
	if len(annotations) > 0 {
		if fields["annotations"], err = annotated(fields["annotations"], annotations); err != nil {
			return Manifest{}, err
		}
	}
	raw, err := encode(fields)
	if err != nil {
		return Manifest{}, err
	}
	return Manifest{Raw: raw, MediaType: m.MediaType, Digest: reference.DigestOf(raw)}, nil
}

// annotated adds annotations to those there are, which may be absent.
func annotated(there json.RawMessage, annotations map[string]string) (json.RawMessage, error) {
	all := make(map[string]string)
	if there != nil {
		if err := json.Unmarshal(there, &all); err != nil {
			return nil, fmt.Errorf("%w: annotations: %w", ErrBadManifest, err)
		}
	}
	if all == nil { // null
		all = make(map[string]string)
	}
	maps.Copy(all, annotations)
	return encode(all)
}

// encode is json.Marshal that leaves the text of strings alone.
func encode(value any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadManifest, err)
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), nil
}
