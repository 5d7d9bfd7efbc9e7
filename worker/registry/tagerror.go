package registry

import "github.com/osism/skopeo-worker/shared/reference"

// TagError is a name among the tags of a repository that no tag can have.
type TagError struct {
	Name string // as the registry sent it: nobody knows what is in it
	Err  error  // wraps reference.ErrInvalidTag, and quotes the name
}

func (e *TagError) Error() string { return e.Err.Error() }
func (e *TagError) Unwrap() error { return e.Err }

// ParseTag reads a name that a registry lists as a tag. Its error is a *TagError.
func ParseTag(name string) (reference.Tag, error) {
	tag, err := reference.ParseTag(name)
	if err != nil {
		return reference.Tag{}, &TagError{Name: name, Err: err}
	}
	return tag, nil
}
