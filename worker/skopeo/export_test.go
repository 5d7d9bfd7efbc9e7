package skopeo

// SetRoot makes the runner look for policies below a folder.
func (r *Runner) SetRoot(folder string) { r.root = folder }
