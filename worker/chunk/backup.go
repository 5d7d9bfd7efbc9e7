package chunk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/deletion"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/registry"
)

// errBackupTaken is returned if the tag of a backup is in use for another image.
var errBackupTaken = errors.New("the name of the backup is taken")

// backUp gives the destination's image another tag before its tag is replaced. If backUp fails,
// the tag must not be replaced. An image that has a backup already, as after a failed try, gets
// no second one.
func (e *execution) backUp(ctx context.Context, j *compare.Job, image message.Image, digest reference.Digest) error {
	tag := compare.DestinationTag(image)
	had := j.Had[tag]
	if !e.backsUp(j, image) || had.IsZero() || had == digest {
		return nil
	}
	to := j.Entry.Destination
	all, err := e.worker.Notes.Backups(ctx, to)
	if err != nil {
		return err
	}
	backups := all[tag]
	if slices.ContainsFunc(backups, func(b compare.Backup) bool { return b.Digest == had }) {
		return nil
	}
	name, err := j.Entry.Selection.Backup.Name(tag, had, e.worker.now())
	if err != nil {
		return err
	}
	isName := func(b compare.Backup) bool { return b.Name == name }
	taken, err := e.mirror.Tagged(e.work, to, name)
	if err != nil {
		return fmt.Errorf("look up the backup of %s: %w", tag, err)
	}
	if listed, err := e.isAtSource(j.Entry, name); err != nil {
		return fmt.Errorf("look up the backup of %s: %w", tag, err)
	} else if listed && taken != had {
		return fmt.Errorf("%w: the source has the tag %s; change BACKUP_TAG or backup", errBackupTaken, name)
	}
	switch foreign := !taken.IsZero() && !slices.Contains(backups, compare.Backup{Name: name, Digest: taken}); {
	case foreign && taken == had: // somebody else has tagged the image, and that keeps it
		return nil
	case foreign:
		return fmt.Errorf("%w: %s:%s is not a backup of %s; change BACKUP_TAG or backup", errBackupTaken, to, name, tag)
	}
	target := mirror.Target{Repository: to, Tag: name}
	if err = e.mirror.Tag(e.work, target, had); errors.Is(err, registry.ErrPage) {
		err = e.mirror.Tag(e.work, target, had) // the first answer may have come from a proxy
	}
	failed, _ := errors.AsType[*registry.Error](err)
	puts := failed != nil && failed.Op == registry.OpPut // so the old image was read
	if errors.Is(err, mirror.ErrVanished) || !puts && e.mirror.Unreadable(e.work, to, err) {
		e.log.Warn("cannot read the old image of a tag at the destination, so it gets no backup", "tag", to.String()+":"+tag.String(), "digest", had, "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("make a backup of %s: %w", tag, err)
	}
	e.log.Info("made a backup of a tag", "tag", to.String()+":"+tag.String(), "backup", name, "digest", had)
	backups = append(slices.DeleteFunc(slices.Clone(backups), isName), compare.Backup{Name: name, Digest: had})
	return e.worker.Notes.NoteBackups(ctx, to, tag, backups)
}

// isAtSource reports whether the source of an entry has a tag with the name of a backup. Such a tag
// at the destination may be a mirrored one.
func (e *execution) isAtSource(r message.Repository, name reference.Tag) (bool, error) {
	_, err := e.mirror.Registry.Head(e.work, r.Source, name)
	if errors.Is(err, registry.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// backsUp reports whether the entry keeps backups of an image's tag.
func (e *execution) backsUp(j *compare.Job, image message.Image) bool {
	if j.Entry.Selection == nil || j.Entry.Selection.Backup.IsZero() {
		return false
	}
	_, companion := selection.Companion(compare.DestinationTag(image).String())
	return !companion
}

// expireBackups deletes the oldest backups of a tag if there are more than the entry keeps and if
// the destination deletes tags.
func (e *execution) expireBackups(ctx context.Context, j *compare.Job, image message.Image) error {
	tag, to := compare.DestinationTag(image), j.Entry.Destination
	if !e.backsUp(j, image) || j.Had[tag].IsZero() {
		return nil
	}
	all, err := e.worker.Notes.Backups(ctx, to)
	backups := all[tag]
	if err != nil || len(backups) <= j.Entry.Selection.Backup.Keep {
		return err
	}
	for len(backups) > j.Entry.Selection.Backup.Keep {
		at, err := e.mirror.Tagged(e.work, to, backups[0].Name)
		listed := false
		if err == nil && at == backups[0].Digest {
			listed, err = e.isAtSource(j.Entry, backups[0].Name)
		}
		if err == nil && at == backups[0].Digest && !listed { // otherwise it is gone, or is no backup now
			err = e.deleteBackup(to, backups[0])
		}
		if err != nil && !errors.Is(err, registry.ErrNotFound) {
			e.log.Warn("an old backup stays at the destination", "backup", to.String()+":"+backups[0].Name.String(), "error", err)
			break
		}
		backups = backups[1:]
	}
	return e.worker.Notes.NoteBackups(ctx, to, tag, backups)
}

// deleteBackup deletes the tag of a backup, and leaves the image. A registry that is not known to
// delete a tag alone may delete the image with all of its tags. So a backup stays there if its
// image has another tag.
func (e *execution) deleteBackup(to reference.Repository, b compare.Backup) error {
	client := e.mirror.Destination()
	if !e.worker.Deletions.Alone(to) {
		if shares, err := e.hasOtherTag(to, b); err != nil || !shares.IsZero() {
			return cmp.Or(err, fmt.Errorf("%w: %s has its digest, too", deletion.ErrTogether, shares))
		}
		return client.DeleteTag(e.work, to, b.Name)
	}
	now := func(_ context.Context, send func() error) error { return send() }
	return deletion.Deleter{Registry: client, Hosts: e.worker.Deletions, During: now}.Tag(e.work, to, b.Name, b.Digest)
}

// hasOtherTag returns another tag of the image of a backup. It is zero if there is none.
func (e *execution) hasOtherTag(to reference.Repository, b compare.Backup) (reference.Tag, error) {
	for tag, err := range e.mirror.Destination().Tags(e.work, to) {
		if err != nil {
			return reference.Tag{}, err
		}
		if tag == b.Name {
			continue
		}
		if at, err := e.mirror.Tagged(e.work, to, tag); err != nil || at == b.Digest {
			return tag, err
		}
	}
	return reference.Tag{}, nil
}
