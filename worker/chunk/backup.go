package chunk

import (
	"context"
	"errors"
	"slices"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/registry"
)

// backUp puts another tag on what the destination has under the tag of an image, which is
// about to be replaced. Then it deletes the oldest backups of the tag, as far as there are too
// many and the destination deletes tags. If the backup cannot be made, the tag must not be
// replaced.
func (e *execution) backUp(j *compare.Job, image message.Image, digest reference.Digest) error {
	tag := compare.DestinationTag(image)
	had := j.Had[tag]
	_, companion := selection.Companion(tag.String())
	if j.Entry.Selection == nil || j.Entry.Selection.Backup.IsZero() || had.IsZero() || had == digest || companion {
		return nil
	}
	settings, to := j.Entry.Selection.Backup, j.Entry.Destination
	name, err := settings.Name(tag, had, e.worker.now())
	if err != nil {
		return err
	}
	err = e.mirror.Tag(e.work, mirror.Target{Repository: to, Tag: name}, had)
	if errors.Is(err, mirror.ErrVanished) {
		e.log.Warn("what a tag had is no longer at the destination, so there is no backup of it", "tag", to.String()+":"+tag.String(), "digest", had)
		return nil
	}
	if err != nil {
		return err
	}
	e.log.Info("kept what a tag had under another tag", "tag", to.String()+":"+tag.String(), "backup", name, "digest", had)
	// Unlike requests to registries, this does not end with work.
	ctx := context.WithoutCancel(e.work)
	all, err := e.worker.Notes.Backups(ctx, to)
	if err != nil {
		return err
	}
	backups := append(slices.DeleteFunc(slices.Clone(all[tag]), func(t reference.Tag) bool { return t == name }), name)
	for len(backups) > settings.Keep {
		err := e.mirror.Destination().DeleteTag(e.work, to, backups[0])
		if err != nil && !errors.Is(err, registry.ErrNotFound) {
			e.log.Warn("an old backup stays at the destination", "backup", to.String()+":"+backups[0].String(), "error", err)
			break
		}
		backups = backups[1:]
	}
	return e.worker.Notes.NoteBackups(ctx, to, tag, backups)
}
