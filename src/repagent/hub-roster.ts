// Which hub stands behind each name, by the id that the hub itself says. Two names of one hub would be two agents to it
// that take one replica from each other, and one copy where the operator counts two: the second name is refused.

export class HubRoster {
  /** Names by hub ids. */
  readonly #names = new Map<string, string>();

  /**
   * A hub said who it is. Its id stays the name's until another hub answers there, whether it is connected or not.
   * @param name of the hub, as the operator knows it
   * @param hubId 16 bytes
   * @returns why it can't be followed under this name; undefined when it can
   */
  admit(name: string, hubId: Buffer): string | undefined {
    const id = hubId.toString('hex');
    const owner = this.#names.get(id);
    if (owner === name) return undefined;
    if (owner !== undefined) {
      return `this is the hub that is replicated to as ${owner} already (id ${id}): a second name of it makes no second replica; leave one of them out`;
    }
    for (const [other, holder] of this.#names) if (holder === name) this.#names.delete(other);
    this.#names.set(id, name);
    return undefined;
  }
}
