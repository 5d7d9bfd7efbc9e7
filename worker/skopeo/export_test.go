package skopeo

import "context"

// SetRoot makes the runner look for policies below a folder.
func (r *Runner) SetRoot(folder string) { r.root = folder }

// CopyImage copies an image when it is its turn.
func (r *Runner) CopyImage(ctx context.Context, image Image) error {
	turn, err := r.Turn(ctx, image)
	if err != nil {
		return err
	}
	defer turn.End()
	return turn.Copy(ctx)
}
