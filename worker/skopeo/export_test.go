package skopeo

// SetRoot makes the runner look for the system's files below a folder.
func (r *Runner) SetRoot(folder string) { r.root = folder }
